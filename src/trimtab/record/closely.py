"""One answer looked at closely, as a page: what it rests on (why.html), or where two deployments part on it (beside.html).

Documents are those of `trimtab evaluate --why` and `trimtab compare --on`. The pages load nothing, run nothing and escape every text.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trimtab.core.files import canonical_json, digest_of, write_atomic
from trimtab.core.phrases import count, fixed, line, visible
from trimtab.record.disk import sentences
from trimtab.record.page import environment

Plain = Mapping[str, Any]
STRONG_SHARE, WEAK_SHARE = 0.5, 0.15
"""Of the strongest span's influence."""
UNSURE_NATS = 0.5
"""A token on which two deployments differ by more than this is marked."""
PAGES = {"trimtab.why/1": "why", "trimtab.beside/1": "beside"}


def write_closely(folder: Path, document: Plain) -> Path:
    """Write the page and, beside it, the document as JSON; returns the page. Raises InputError, MissingError."""
    name = PAGES[document["schema"]]
    page = folder / f"{name}.html"
    text = render_closely(document)
    with sentences(folder, "write"):
        write_atomic(folder / f"{name}.json", canonical_json(document) + "\n")
        write_atomic(page, text)
    return page


def render_closely(document: Plain) -> str:
    """The page of a document of either kind."""
    page = closely_page(document)
    return environment().get_template("closely.html.j2").render(page=page, title=page["title"], digest=digest_of(document)) + "\n"


def closely_page(document: Plain) -> dict[str, Any]:
    """What a page of a document of either kind says, as texts."""
    return _why(document) if PAGES[document["schema"]] == "why" else _beside(document)


def kinds_of_spans(spans: list[Plain]) -> list[str]:
    """How much the answer leans on each span, beside the strongest: strong, some, little, or against."""
    sizes = [span["influence_nats"] or 0.0 for span in spans]
    strongest = max(map(abs, sizes), default=0.0) or 1.0
    return [_kind(size / strongest) for size in sizes]


def _kind(share: float) -> str:
    if share >= STRONG_SHARE:
        return "strong"
    if share >= WEAK_SHARE:
        return "some"
    return "little" if share > -WEAK_SHARE else "against"


def kind_of_token(token: Plain) -> str:
    """`parted`: the first choices differ; `apart`: the probabilities do; else nothing."""
    if token["first_choice_a"] != token["first_choice_b"]:
        return "parted"
    return "apart" if abs(token["logprob_b"] - token["logprob_a"]) > UNSURE_NATS else ""


def parting(document: Plain) -> str:
    """Where two sides part, and what the answer is worth to B against A, in two sentences."""
    where = document["first_parting"]
    parted = (
        "Both would go on alike at every token." if where is None else f"They part first at token {where + 1} of {len(document['tokens'])}."
    )
    change = fixed(document["change_nats"], 2, signed=True)
    return f"{parted} From A to B the log-probability of the whole answer changes by {change} nats."


def leaning(document: Plain) -> str:
    """What the figures of `why` are, and what they are not."""
    return (
        f"The answer's log-probability is {fixed(document['logprob_nats'], 1)} nats over {count(document['n_tokens'])} tokens. "
        "A span below zero speaks against it. This says what the model leaned on, not whether it should have."
    )


def shown(token: str) -> str:
    """A token with its spaces and line ends visible."""
    return line(token.replace("\n", "⏎").replace(" ", "·")) if token else ""


def _why(document: Plain) -> dict[str, Any]:
    spans = list(document["spans"])
    kinds = kinds_of_spans(spans)
    rows = sorted(spans, key=lambda span: -(span["influence_nats"] or 0.0))
    return {
        "title": f"What an answer of {line(document['model'])} rests on",
        "command": "trimtab evaluate --why",
        "lead": leaning(document),
        "sides": [],
        "prompt": [(visible(span["text"]), kind) for span, kind in zip(spans, kinds, strict=True)],
        "answer": [(visible(document["answer"]).strip(), "")],
        "source": _source(document, "its own, said greedily"),
        "legend": [("strong", "carries much of the answer"), ("some", "carries some"), ("against", "speaks against it")],
        "caption": "What the answer loses when a span is left out of the prompt",
        "table": "cards figures",
        "heads": ["left out", "the answer loses, nats"],
        "rows": [[line(span["text"].strip(), 120), fixed(span["influence_nats"], 2, signed=True)] for span in rows],
    }


def _beside(document: Plain) -> dict[str, Any]:
    tokens = document["tokens"]
    return {
        "title": "One answer under two deployments, token by token",
        "command": "trimtab compare --on",
        "lead": parting(document),
        "sides": [("A", line(document["a"])), ("B", line(document["b"]))],
        "prompt": [(visible(document["prompt"]), "")],
        "answer": [(visible(token["text"]), kind_of_token(token)) for token in tokens],
        "source": _source(document, "what A says by itself, greedily"),
        "legend": [
            ("parted", "A and B would rather say different tokens"),
            ("apart", f"both would say the same, their log-probabilities differ by more than {UNSURE_NATS:g} nats"),
        ],
        "caption": "Log-probability of each token in nats (further below zero: more surprised), and what each would rather have said",
        "table": "figures",  # many short rows: on a phone they scroll and are no cards
        "heads": ["token", "A", "B", "B − A", "A rather", "B rather"],
        "rows": [_token_row(token) for token in tokens],
    }


def _token_row(token: Plain) -> list[str]:
    change = token["logprob_b"] - token["logprob_a"]
    figures = [fixed(token["logprob_a"], 2), fixed(token["logprob_b"], 2), fixed(change, 2, signed=True)]
    return [shown(token["text"]), *figures, shown(token["first_choice_a"]), shown(token["first_choice_b"])]


def _source(document: Plain, own: str) -> str:
    return "given" if document["was_given"] else own
