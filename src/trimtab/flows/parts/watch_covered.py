"""What the evidence of a site's versions covered, by their locks and the runs that lie beside them."""

from pathlib import Path

from trimtab.core.errors import InputError
from trimtab.core.files import digest_of
from trimtab.core.site import Site
from trimtab.record.deploy import read_deploy_toml
from trimtab.record.run import read_decision
from trimtab.watch.envelope import Envelope, envelope_of


def envelopes_of(site: Site, folder: Path) -> dict[str, Envelope]:
    """version id -> its envelope, of versions that a lock names. folder: that locks are relative to. Raises InputError."""
    return {version.id: _envelope(folder / version.lock) for model in site.models for version in model.versions if version.lock}


def _envelope(path: Path) -> Envelope:
    lock = read_deploy_toml(path)
    try:
        decision = read_decision(path.absolute().parent)
        known = digest_of(decision) == lock.decision_sha256
    except InputError:
        known = False
    return envelope_of(lock, decision if known else None)
