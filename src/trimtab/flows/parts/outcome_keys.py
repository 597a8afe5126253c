"""Under which key outcomes are kept, here and on every machine that computes them."""

from trimtab.core.deployment import Candidate
from trimtab.core.files import digest_of
from trimtab.evaluate.requests import PreparedSuite
from trimtab.record.cache import evaluation_key

SCORER_VERSION = "3"


def prepared_digest(prepared: PreparedSuite) -> str:
    """Identity of what is asked: token ids, watched ids and biases, and the items they answer."""
    return digest_of([(one.request, [place.item.id for place in one.places]) for one in prepared.requests])


def outcomes_key(candidate: Candidate, prepared: PreparedSuite) -> str:
    """Key of what a deployment's numerics did on these questions."""
    return evaluation_key(
        weights_sha256=candidate.snapshot.digest,
        template_sha256=candidate.template_sha256,
        build_sha256=candidate.build.digest,
        numeric_settings=candidate.settings.only(candidate.numeric),
        reference_sha256="",  # outcomes are of one deployment; pairs are formed when they are judged
        suite_sha256=prepared_digest(prepared),
        scorer_sha256=SCORER_VERSION,
    )
