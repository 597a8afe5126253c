"""`trimtab train debias`: a model trained to treat groups alike, then judged for bias and for everything else."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from trimtab.core.errors import InfeasibleError
from trimtab.flows.events import OnEvent, ignore
from trimtab.train.debias.methods import Method


def train_debias(
    model: str,
    *,
    suites: Sequence[str] = ("bias",),
    method: Method = "counterfactual",
    data: Sequence[str] = (),
    tokens: int = 0,
    strength: float = 0.0,
    lora_rank: int = 8,
    lr: float = 0.0,
    policy: str = "standard",
    against: Sequence[str] = ("core",),
    processes: int = 1,
    judge: bool = True,
    out: Path,
    fresh: bool = False,
    offline: bool = False,
    time_limit_s: float | None = None,
    seed: int = 0,
    on_event: OnEvent = ignore,
) -> dict[str, Any]:
    """Train `model` by `method`, judge what comes out against it, write the run directory `out`, and return debias.json as JSON types.

    model: spec `[engine:]source[?setting=value]`
    suites: whose bias is to fall, names and files; against: suites that must not lose by it
    data: .jsonl files of the user's (`text` or `messages`, for `reweigh` with `group` and `attribute`); () = texts of trimtab's own and
        texts sampled from the model
    tokens: to train on, 0 = as the method has it; strength: of the pair penalty of `balanced`, 0 = as the method has it
    lora_rank: 0 = all weights are trained; lr: 0 = as the method has it
    judge: off = train and export only, the verdict is then `inconclusive`
    The document has `verdict` (pass, fail, inconclusive), `reasons`, and `table`: one row a measure with before, after, change, low, high.
    Raises InputError, MissingError; InfeasibleError if the model cannot run.
    """
    raise InfeasibleError("Not there yet.")
