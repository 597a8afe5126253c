"""The reference of a run and what is made of its weights: the planted loss, the exact form, the prompts that timing uses."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType

from trimtab.core.deployment import Candidate, Machine, Settings
from trimtab.core.errors import InfeasibleError, MissingError
from trimtab.core.policy import Policy
from trimtab.core.workload import Workload, WorkloadRequest
from trimtab.describe.packing import packing_of
from trimtab.engines.client import WorkerEngine
from trimtab.evaluate.prompts import mark, marked, prompts_with_prefix
from trimtab.flows.parts.evidence import Bench, noise_variants
from trimtab.flows.parts.exam import Exam
from trimtab.flows.parts.opening import AS_SHIPPED, Opened, build_candidate, recipe_named
from trimtab.flows.parts.session import Session
from trimtab.measure.machine import machine as this_machine
from trimtab.measure.machine import measure_rates
from trimtab.plan.requests import LEAST_PROMPT_TOKENS

CONTEXT_TOKENS = 1024
"""Tokens that one sequence may hold at least: the longest shipped item and a served answer fit."""
QUANTIZED_BITS = 10.0
"""Weights stored with fewer bits than this on average were quantised by somebody before."""
EXACT = {
    "gguf": ("llamacpp", "f16", "f32"),
    "openvino": ("openvino", AS_SHIPPED, ""),
    "safetensors": ("transformers", "fp32", ""),
    "ctranslate2": ("ctranslate2", AS_SHIPPED, ""),
}
WEAK = {"llamacpp": "q2_k", "openvino": "int4-sym-g64", "transformers": "int3", "ctranslate2": "int8"}
MADE = {AS_SHIPPED: "", "f16": " expanded to 16-bit floats", "fp32": ", computed in 32-bit floats"}
"""What the recipe of a reference does to weights, in words."""


@dataclass(frozen=True, kw_only=True)
class Reference:
    """candidate: the reference deployment. provenance: what it is, in words. exact: the same weights with less rounding, None if none."""

    candidate: Candidate
    provenance: str
    exact: Candidate | None
    weak: Candidate | None
    weak_missing: str


def common_settings(workload_tokens: int, concurrency: Sequence[int], context_limit: int) -> Settings:
    """Settings that all deployments of a run share: as many slots as the workload needs, and room for its longest sequence."""
    return Settings(slots=max(concurrency), context_tokens=min(max(workload_tokens, CONTEXT_TOKENS), context_limit))


async def machine_with_rates(session: Session) -> Machine:
    """This machine with its read bandwidth and matrix rate, measured once."""

    async def compute() -> list[float]:
        session.say("machine", "measuring read bandwidth and matrix rate")
        return list(measure_rates())

    machine = this_machine()
    read_gb_s, matmul_gflop_s = await session.once("rates", machine.digest, compute)
    return dataclasses.replace(machine, read_gb_s=read_gb_s, matmul_gflop_s=matmul_gflop_s)


async def weakened(session: Session, opened: Opened, settings: Settings) -> tuple[Candidate | None, str]:
    """The weights with far fewer bits, as a planted loss; None with the reason where they cannot be built."""
    engine = EXACT[opened.snapshot.format][0]
    try:
        return await _built(session, opened, engine, WEAK[engine], settings), ""
    except (InfeasibleError, MissingError) as error:
        return None, str(error)


async def bench_against(
    session: Session, opened: Opened, reference: Candidate, settings: Settings, policy: Policy, exam: Exam, n_cores: int
) -> Bench:
    """A deployment that the user named as the reference, made from `opened`, with its planted loss and its other numerics."""
    weak, missing = await weakened(session, opened, settings)
    return Bench(
        reference=reference,
        weak=weak,
        weak_missing=missing,
        variants=noise_variants(reference, None, n_cores),
        policy=policy,
        exam=exam,
    )


async def make_reference(session: Session, opened: Opened, settings: Settings, bits_per_weight: float) -> Reference:
    """The most exact form of the original weights on the most exact engine at hand. Raises InfeasibleError, MissingError."""
    engine, recipe_name, finer = EXACT[opened.snapshot.format]
    recipe = recipe_named(recipe_name, engine)
    session.say("reference", f"{engine} {recipe.name.removeprefix(engine + '-')}")
    made = await build_candidate(
        opened, engine, recipe, settings, products_dir=session.products_dir, candidate_id=f"reference: {engine} {recipe_name}"
    )
    exact = await _try(session, opened, engine, finer, settings) if finer else None
    weak, missing = await weakened(session, opened, settings)
    kind = f"already {bits_per_weight:.1f} bits a weight" if bits_per_weight < QUANTIZED_BITS else "not quantised"
    packing = packing_of(opened.header.metadata) if opened.snapshot.format == "safetensors" else None
    if packing is not None:
        kind = f"quantised before: {packing.text}; here unpacked"
    provenance = f"{opened.snapshot.source}: the weights as shipped ({kind}){MADE[recipe_name]}, in {engine}"
    return Reference(candidate=made, provenance=provenance, exact=exact, weak=weak, weak_missing=missing)


async def _built(session: Session, opened: Opened, engine: str, name: str, settings: Settings) -> Candidate:
    return await build_candidate(opened, engine, recipe_named(name, engine), settings, products_dir=session.products_dir)


async def _try(session: Session, opened: Opened, engine: str, name: str, settings: Settings) -> Candidate | None:
    try:
        return await _built(session, opened, engine, name, settings)
    except (InfeasibleError, MissingError) as error:
        session.say("reference", f"{name} cannot be made: {error}")
        return None


def bench_of(reference: Reference, policy: Policy, exam: Exam, n_cores: int) -> Bench:
    """What candidates are held against."""
    return Bench(
        reference=reference.candidate,
        weak=reference.weak,
        weak_missing=reference.weak_missing,
        variants=noise_variants(reference.candidate, reference.exact, n_cores),
        policy=policy,
        exam=exam,
    )


class PromptMaker:
    """Fresh prompts of a workload, as timing wants them. The tokenizer's worker is started when the first prompt is asked for."""

    def __init__(self, candidate: Candidate, workload: Workload) -> None:
        self.candidate = candidate
        self.shared_share = workload.shared_prefix_tokens / workload.prompt_tokens
        self._engine: WorkerEngine | None = None

    @property
    def engine(self) -> WorkerEngine:
        if self._engine is None:
            self._engine = WorkerEngine(self.candidate.snapshot, self.candidate.settings, engine=self.candidate.engine)
        return self._engine

    def __call__(self, n: int, n_tokens: int, seed: int) -> list[list[int]]:
        """The workload's share of each prompt is the same in all, also of prompts that are shorter than the workload's."""
        shared_tokens = min(round(self.shared_share * n_tokens), n_tokens - LEAST_PROMPT_TOKENS) if self.shared_share else 0
        return prompts_with_prefix(seed, n, n_tokens, max(0, shared_tokens), lambda text: self.engine.tokenize(text, parse_special=False))

    def of_messages(self, request: WorkloadRequest, seed: int) -> list[int]:
        """A user's own prompt in the model's template; of one that is to be cut, its number and then the end."""
        ids = self.engine.tokenize(self.engine.render(marked(request.messages, seed)), parse_special=True)
        if len(ids) <= request.prompt_tokens:
            return ids
        number = self.engine.tokenize(mark(seed), parse_special=False)
        return [*number, *ids[len(number) - request.prompt_tokens :]]

    def __enter__(self) -> "PromptMaker":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._engine is not None:
            self._engine.close()
