"""`trimtab train heal`: a compressed candidate of a finished run is trained back towards the reference, and judged again."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from trimtab.core.errors import InfeasibleError
from trimtab.flows.events import OnEvent, ignore


def train_heal(
    run: str | Path,
    *,
    candidate: str = "",
    tokens: int = 200_000,
    data: Sequence[str] = (),
    lr: float = 0.0,
    policy: str = "",
    suites: Sequence[str] = (),
    processes: int = 1,
    judge: bool = True,
    out: Path,
    fresh: bool = False,
    offline: bool = False,
    time_limit_s: float | None = None,
    seed: int = 0,
    on_event: OnEvent = ignore,
) -> dict[str, Any]:
    """Distil the reference of a finished run into one of its compressed candidates, at the same format and bits, and judge what comes out.

    run: folder of a finished `optimize` or `compare`; candidate: id of one of its candidates, empty = the first that was judged and failed
    tokens: to train on, at most; data: .txt, .jsonl files of the user's, () = text that the reference itself is made to write
    lr: levels a step at its highest, 0 = what the grid has as its own; policy, suites: of the judgement, default those of the run
    judge: off = train and export only, the verdict is then `inconclusive`
    Gives heal.json as JSON types: `verdict`, `reasons`, `model` (path of the healed model), `grid`, `tokens_seen`, `cpu_s`, `losses`
    (KL divergence in nats on text kept from the training: `before`, `after`, each with `low` and `high`), `exact` (the exported weights
    are the trained ones), `decision` (decision.json of the judgement, or None).
    Raises InputError (no such candidate, one that is no grid of weights), MissingError; InfeasibleError if the reference cannot run.
    """
    raise InfeasibleError("Not there yet.")
