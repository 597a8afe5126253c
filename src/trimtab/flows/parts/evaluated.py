"""evaluation.json of what was observed, and the pages beside it; the same for what was asked by token ids and by text."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

from trimtab.core.evidence import Item, Outcome
from trimtab.core.files import to_plain
from trimtab.decide.levels import suite_levels
from trimtab.decide.request_kinds import kind_levels
from trimtab.flows.parts.document import typed_command, versions
from trimtab.flows.parts.session import Session
from trimtab.measure.machine import machine as this_machine
from trimtab.record.evaluation import write_evaluation
from trimtab.record.items import NAME as ITEMS_PAGE
from trimtab.record.items import Side, write_items_page
from trimtab.record.run import EVALUATION_SCHEMA, now


class Named(Protocol):
    """What a suite of ours and one of another tool have in common."""

    @property
    def name(self) -> str: ...

    @property
    def version(self) -> str: ...


def suite_row(suites: Iterable[Named], digest: str, items: Mapping[str, Item], languages: Iterable[str]) -> dict[str, Any]:
    """What evaluation.json says of its items."""
    parts = list(suites)
    return {
        "name": "+".join(part.name for part in parts),
        "version": "+".join(part.version for part in parts),
        "digest": digest,
        "n_items": len(items),
        "n_clusters": len({(item.suite, item.cluster) for item in items.values()}),
        "languages": sorted(set(languages)),
    }


def write_evaluated(
    session: Session,
    *,
    model: Mapping[str, Any],
    reference: Mapping[str, Any] | None,
    outcomes: Sequence[Outcome],
    before: Sequence[Outcome] | None,
    units: Mapping[str, str],
    items: Mapping[str, Item],
    kinds: Mapping[str, str],
    suite: Mapping[str, Any],
    refusals: Sequence[Mapping[str, Any]],
    more: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """evaluation.json as JSON types, written with its pages; then the run is finished.

    model, reference: as documents name them; before: the reference's outcomes; units: by sub-suite; kinds: of requests, by item id
    more: what else is to be told of this way of asking
    """
    document = {
        "schema": EVALUATION_SCHEMA,
        "kind": "evaluate",
        "model": dict(model),
        "reference": dict(reference) if reference is not None else None,
        "levels": to_plain(suite_levels(outcomes, units, before)),
        "requests": to_plain(kind_levels(outcomes, kinds, units, before)),
        "refusals": list(refusals),
        **(more or {}),
        "suite": dict(suite),
        "machine": to_plain(this_machine()),
        "versions": versions(),
        "seed": session.seed,
        "started": session.run.head["started"],
        "finished": now(),
        "seconds": round(session.seconds, 1),
        "work": {"computed": session.n_computed, "known": session.n_known},
    }
    session.run.write_evaluation(document)
    other = Side(id=reference["id"], outcomes=before) if reference is not None and before is not None else None
    write_items_page(session.run.path / ITEMS_PAGE, Side(id=model["id"], outcomes=outcomes), other, items, units)
    write_evaluation(session.run.path / "report.html", document, command=typed_command(), items=ITEMS_PAGE)
    session.run.finish()
    return document
