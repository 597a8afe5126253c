"""The page of a training: one self-contained file. It loads nothing, runs nothing and escapes every text it prints."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from trimtab.core import phrases
from trimtab.core.files import digest_of, write_atomic
from trimtab.core.training import StepRecord
from trimtab.record.disk import sentences
from trimtab.record.figures import ACCENT, BAD, MUTED, UNSURE, WIDTH_PX, bare_axes, blank_figure, page_svg, value_axes
from trimtab.record.page import environment

Plain = Mapping[str, Any]
MOST_POINTS = 600
SMOOTH_SHARE = 0.05
HEIGHT_PX = 190
KINDS = {"spike": BAD, "rollback": BAD, "fallback": UNSURE, "data-bound": UNSURE, "resumed": MUTED, "stopped": MUTED}
QUANTITIES = {"step_time_s": "a step", "tok_s": "tokens a second", "peak_memory_bytes": "peak memory of a process"}


def write_train_report(path: Path, document: Plain, steps: Sequence[StepRecord]) -> None:
    """Write the page, whole or not at all. Raises InputError or MissingError."""
    text = render_train_report(document, steps)
    with sentences(path, "write"):
        write_atomic(path, text)


def render_train_report(document: Plain, steps: Sequence[StepRecord]) -> str:
    """The page of a document of schema trimtab.training/1."""
    values = {
        "page": document,
        "headline": headline(document),
        "phrases": phrases,
        "curves": curves(steps, document["events"]),
        "figures": figures(document),
        "met": [met_row(row) for row in document["planned"]["met"]],
        "cost": cost_rows(document["cost"]),
        "identity": identity(document),
        "digest": digest_of(document),
    }
    return environment().get_template("train.html.j2").render(values) + "\n"


def headline(document: Plain) -> str:
    """The run in a sentence."""
    result = document["result"]
    fell = f"from {phrases.fixed(result['first_loss'], 3)} to {phrases.fixed(result['last_loss'], 3)} nats a token"
    return f"Loss {fell} in {phrases.count(result['steps'])} steps"


def curves(steps: Sequence[StepRecord], events: Sequence[Plain]) -> list[dict[str, str]]:
    """Title and SVG of each curve over the steps."""
    if len(steps) < 2:
        return []
    at = {int(event["step"]): str(event.get("kind", "")) for event in events if phrases.is_number(event.get("step"))}
    rates = [step.tokens / step.step_s if step.step_s > 0 else math.nan for step in steps]
    waits = [100 * step.data_wait_s / step.step_s if step.step_s > 0 else math.nan for step in steps]
    told = [
        ("loss", "Loss, nats a token", [step.loss for step in steps], True),
        ("lr", "Learning rate", [step.lr for step in steps], False),
        ("norm", "Norm of the gradient before clipping", [step.grad_norm for step in steps], True),
        ("rate", "Tokens a second", rates, True),
        ("memory", "Peak memory of the largest process, GB", [step.peak_memory_bytes / 1e9 or math.nan for step in steps], False),
        ("wait", "Share of a step spent waiting for data, %", waits, False),
    ]
    numbers = [step.step for step in steps]
    return [
        {
            "title": title,
            "svg": curve(numbers, values, at, name=f"curve-{name}", title=title, smooth=smooth, from_zero=name not in ("loss", "norm")),
        }
        for name, title, values, smooth in told
        if any(math.isfinite(value) for value in values)
    ]


def curve(
    numbers: Sequence[int], values: Sequence[float], events: Mapping[int, str], *, name: str, title: str, smooth: bool, from_zero: bool
) -> str:
    """One number over the steps, with its running mean and a line at each event. Returns SVG."""
    figure, axes = blank_figure(WIDTH_PX, HEIGHT_PX, left=58, bottom=40)
    thin = max(1, -(-len(numbers) // MOST_POINTS))
    axes.plot(numbers[::thin], values[::thin], color=MUTED if smooth else ACCENT, linewidth=1.0 if smooth else 1.8, zorder=2)
    if smooth and len(values) >= 10:
        span = max(3, round(SMOOTH_SHARE * len(values)))
        axes.plot(numbers[::thin], running_mean(values, span)[::thin], color=ACCENT, linewidth=2.0, zorder=3)
    for step, kind in events.items():
        axes.axvline(step, color=KINDS.get(kind, MUTED), linewidth=1, linestyle=(0, (3, 3)), zorder=1)
    known = [value for value in values if math.isfinite(value)]
    low, high = min(known), max(known)
    pad = (high - low) * 0.08 or abs(high) * 0.1 or 1.0
    axes.set_ylim(0.0 if from_zero else low - pad, high + pad)
    value_axes(axes, "x")
    _few_ticks(axes)
    axes.set_xlabel("step", color=MUTED)
    ends = f"first {phrases.significant(known[0])}, last {phrases.significant(known[-1])}, least {phrases.significant(low)}"
    return page_svg(figure, name, title, f"{title}: {ends}, most {phrases.significant(high)}.")


def _few_ticks(axes: Any) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.yaxis.set_major_locator(MaxNLocator(nbins=4))
    axes.yaxis.set_major_formatter(lambda value, _: tick(value))
    bare_axes(axes, ("left", "bottom"))


def tick(value: float) -> str:
    """A number on an axis: `1,200`, `0.05`, `2e-5`."""
    if value and abs(value) < 1e-3:
        return f"{value:.0e}".replace("e-0", "e-")
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def running_mean(values: Sequence[float], span: int) -> list[float]:
    """Mean of each value and those up to half a span beside it; NaNs are left out of it."""
    found = []
    for place in range(len(values)):
        near = [value for value in values[max(0, place - span // 2) : place + span // 2 + 1] if math.isfinite(value)]
        found.append(sum(near) / len(near) if near else math.nan)
    return found


def figures(document: Plain) -> list[tuple[str, str, str]]:
    """(name, value, what it means) of the numbers that stand first."""
    result, pace = document["result"], document["pace"]
    rows = [
        ("tokens", phrases.count(result["tokens_seen"]), "target tokens that counted"),
        (
            "time",
            phrases.seconds(result["wall_s"]),
            f"{phrases.seconds(result['cpu_s'])} of processors, {document['processes']} process(es)",
        ),
        ("peak memory", phrases.megabytes(result["peak_memory_bytes"] or None), "of the largest process"),
    ]
    if pace:
        rows.append(("throughput", phrases.with_unit(pace["tok_s"], "tok/s"), f"a step took {phrases.with_unit(pace['step_s'], 's')}"))
        use = phrases.percent(pace["mfu"], 1)
        peak = phrases.with_unit(pace["peak_flop_s"] / 1e9, "GFLOP/s") if pace["peak_flop_s"] else phrases.MISSING
        rows.append(
            ("MFU", use, f"{pace['mfu_convention']}: {phrases.significant(pace['flops_per_token'] / 1e6)} MFLOP a token, of {peak}")
        )
        fed = document.get("feed", {}).get("why", "")
        rows.append(("waiting for data", phrases.percent(pace["data_wait_share"], 2), f"of the steps' time{fed and '; '}{fed}"))
    data = document["run"].get("data") or {}
    if data:
        held = f"{phrases.count(data['n_documents'])} documents, {phrases.count(data['n_tokens'])} tokens"
        padding = f"{phrases.percent(data['padding_share'], 2)} of their places are padding, no token is lost"
        rows.append(("sequences", phrases.count(data["n_sequences"]), f"an epoch: {held}; {padding}"))
    return rows


def met_row(row: Plain) -> dict[str, str]:
    """Predicted against measured in words."""
    said = {True: "inside the interval", False: "outside the interval", None: "physics alone, no interval"}
    predicted = amount(row["predicted"], row["unit"])
    return {
        "what": QUANTITIES[row["quantity"]],
        "predicted": predicted,
        "range": f"{amount(row['low'], row['unit'])} to {amount(row['high'], row['unit'])}" if row["low"] is not None else "",
        "measured": amount(row["measured"], row["unit"]),
        "ratio": phrases.times(row["measured"] / row["predicted"]) if row["predicted"] else phrases.MISSING,
        "said": said[row["inside"]] if row["predicted"] else "not predicted",
    }


def amount(value: float | None, unit: str) -> str:
    """A number in the words that people use for its unit."""
    if unit == "bytes":
        return phrases.megabytes(value)
    return phrases.with_unit(value, unit)


def cost_rows(cost: Plain) -> list[tuple[str, str]]:
    """Energy; money and CO2 where a price or a region was told. What was not measured says so."""
    told = [("money", cost["usd"], "USD"), ("CO2", cost["g_co2"], "g")]
    return [
        ("energy", phrases.with_unit(cost["kwh"], "kWh")),
        *((name, phrases.with_unit(value, unit)) for name, value, unit in told if value is not None),
    ]


def identity(document: Plain) -> list[tuple[str, str]]:
    """What the run was made of: digests and versions, as process 0 wrote them in run.json."""
    run = document["run"]
    rows = [("folder", str(document["out"])), ("model made", str(document["model_folder"])), ("model", str(document["model_sha256"]))]
    for table in ("digests", "versions"):
        rows += [(str(name), str(value)) for name, value in sorted((run.get(table) or {}).items())]
    rows += [("seed", str(document["config"]["train"]["seed"]))]
    return rows
