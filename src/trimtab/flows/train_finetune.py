"""`trimtab train finetune`: plan, train, hold the plan against the run, and write the document and the page (schema trimtab.training/1)."""

import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from trimtab.core.errors import InputError
from trimtab.core.files import canonical_json, json_object, sha256_file, to_plain, write_atomic
from trimtab.core.training import StepRecord, TrainConfig, TrainResult
from trimtab.flows.parts.plan_model import plan_model
from trimtab.flows.parts.train_energy import EnergyMeter, cost, cost_row
from trimtab.flows.parts.train_feed import feed_row
from trimtab.flows.parts.train_files import read_events, read_steps
from trimtab.flows.parts.train_launch import Follow, differing, launch
from trimtab.flows.parts.train_planned import Planned, check_memory, met, plan_run, remember_run
from trimtab.plan.prices import grid
from trimtab.record.disk import sentences
from trimtab.record.home import cache_dir
from trimtab.record.lock import FolderLock
from trimtab.record.train_report import write_train_report
from trimtab.sources.open import open_source
from trimtab.train.config import read_config
from trimtab.train.data import inputs
from trimtab.train.meters import mfu, pace
from trimtab.train.source import with_folders

SCHEMA = "trimtab.training/1"
DOCUMENT, PAGE = "train.json", "report.html"


def train_finetune(
    config: TrainConfig,
    *,
    out: Path,
    processes: int = 1,
    kind: str = "finetune",
    plan: bool = True,
    fresh: bool = False,
    offline: bool = False,
    price_per_hour: float | None = None,
    region: str = "",
    time_limit_s: float | None = None,
    on_planned: Callable[[Planned], None] = lambda _: None,
    follow: Callable[[Follow], None] = lambda _: None,
) -> dict[str, Any]:
    """Train `config` in `processes` processes of this machine in the folder `out`; returns train.json as JSON types.

    kind: what the page is called by, `finetune` or `pretrain`; plan: refuse what cannot fit the memory; fresh: an older run is moved aside
    on_planned: called before the first step. Raises InputError, MissingError, InfeasibleError; StoppedError where it was stopped.
    """
    if fresh:
        move_aside(out)
    source, config = config.model.source, with_folders(config, offline=offline)
    known = _before(out)
    if known is not None and not differing(config, read_config(out / "train.toml")):
        return known
    inputs.resolved(config.data.files)
    if region:
        grid(region)
    planned = plan_run(config, plan_model(config.model.source, offline=True), processes)
    on_planned(planned)
    if plan:
        check_memory(planned)
    meter, began = EnergyMeter(), time.monotonic()

    def heard(news: Follow) -> None:
        meter.sample()
        follow(news)

    result = launch(config, out, processes=processes, time_limit_s=time_limit_s, follow=heard)
    meter.sample(now=True)
    spent = cost(meter, time.monotonic() - began, price_per_hour=price_per_hour, region=region)
    return _kept(out, source, config, planned, result, kind=kind, spent=cost_row(spent))


def move_aside(out: Path) -> None:
    """Make room for a new run: the old one becomes `<name>.old-<time>`. Raises InputError if it is running."""
    if not out.exists():
        return
    if any(out.iterdir()) and not (out / "train.toml").exists():
        raise InputError(f"{out} holds something that is no training; choose another folder.")
    lock = FolderLock(out)
    try:
        with sentences(out, "move"):
            out.rename(out.with_name(f"{out.name}.old-{datetime.now(UTC):%Y%m%dT%H%M%SZ}"))
    finally:
        lock.release()


def _kept(
    out: Path, source: str, config: TrainConfig, planned: Planned, result: TrainResult, *, kind: str, spent: Mapping[str, Any]
) -> dict[str, Any]:
    """The document and the page of a run that has just ended; what it measured is kept for the planner."""
    steps, about = read_steps(out), json_object(out / "run.json")
    paced = _pace_row(planned, steps)
    document = {
        "schema": SCHEMA,
        "kind": kind,
        "model": source,
        "model_sha256": model_digest(Path(config.model.source)),
        "out": str(out),
        "model_folder": str(out / result.model),
        "config": to_plain(config),
        "processes": result.world,
        "result": to_plain(result),
        "pace": paced,
        "feed": feed_row(
            about.get("data", {}),
            processes=result.world,
            tok_s=paced.get("computed_tok_s", 0.0),
            planned_tok_s=planned.numbers.get("tok_s", {}).get("value"),
        ),
        "planned": _planned_row(planned, steps, remember_run(planned, steps)),
        "cost": dict(spent),
        "events": read_events(out),
        "run": about,
        "report": str(out / PAGE),
    }
    with sentences(out, "write"):
        write_atomic(out / DOCUMENT, canonical_json(document) + "\n")
    write_train_report(out / PAGE, document, steps)
    return document


def model_digest(folder: Path) -> str:
    """Of the files that were trained from; of the shape alone where there are no weights."""
    if any(folder.glob("*.safetensors")):
        return open_source(str(folder), cache_dir=cache_dir(), offline=True).digest
    return sha256_file(folder / "config.json")


def _before(out: Path) -> dict[str, Any] | None:
    """The document of a run that has ended: asking again for it costs no energy and teaches the planner nothing."""
    found = json_object(out / DOCUMENT)
    return found if found.get("schema") == SCHEMA else None


def _pace_row(planned: Planned, steps: list[StepRecord]) -> dict[str, Any]:
    """Of the whole run but its first two steps."""
    late = steps[2:] or steps
    found = pace(late, planned.job.seq_tokens * planned.job.global_batch_seqs, window_steps=len(late) or 1)
    if found is None:
        return {}
    share = mfu(found.computed_tok_s, planned.flops_per_token, planned.peak_flop_s)
    return {
        **to_plain(found),
        "mfu": share,
        "mfu_convention": planned.convention,
        "flops_per_token": planned.flops_per_token,
        "peak_flop_s": planned.peak_flop_s,
    }


def _planned_row(planned: Planned, steps: list[StepRecord], n_learnt: int) -> dict[str, Any]:
    return {
        "device": planned.job.device.name,
        "numbers": dict(planned.numbers),
        "why_not": planned.why_not,
        "notes": list(planned.notes),
        "met": to_plain(met(planned, steps)),
        "n_learnt": n_learnt,
    }
