"""What runs: recipe, settings, engine build, machine, and the deployment they make together."""

import dataclasses
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from trimtab.core.errors import InputError
from trimtab.core.files import digest_of
from trimtab.core.model import Snapshot


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How weights are changed before an engine opens them. One TOML each in catalog/recipes.

    family: file of the compress room that builds it: `gguf`, `openvino` ...
    engine: the engine that its product is for
    parameters: what the family's builder reads, e.g. {"type": "Q8_0"} or {"mode": "int8_asym"}
    bits_per_weight: nominal, for the prior only; decisions use actual bytes
    """

    name: str
    family: str
    engine: str
    title: str = ""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    bits_per_weight: float = 16.0


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Engine settings. None = the engine's own default. An engine states which it knows and which are numeric.

    threads: compute threads
    slots: sequences decoded together at most
    batch_tokens: tokens scheduled in one step at most (llama.cpp n_batch, OpenVINO max_num_batched_tokens)
    microbatch_tokens: tokens computed at once (llama.cpp n_ubatch)
    context_tokens: tokens of prompt and output that ONE sequence may hold
    kv_type: cache type: f32, f16, bf16, q8_0, q4_0, u8 ...
    flash_attention: fused attention kernel
    device_layers: layers placed on an accelerator
    tensor_split: share of the layers for each accelerator
    prefix_cache: keep the cache of earlier prompts for reuse
    load_mode: `mmap` or `read`
    speculation: `prompt-lookup` proposes what followed the last few tokens earlier in the same request, and the model checks all
        proposed tokens at once; `draft-model` proposes what a smaller model says (the default where `draft` is given); `none` nothing
    draft: source of that smaller model, as one types it. It names a place and no content: see Snapshot.draft
    draft_tokens: tokens proposed in one step at most
    ngram_tokens: how many last tokens must be found again before anything is proposed (where an engine tries shorter ones too, the most)
    compile_cache: keep what the engine compiles from the model, so that the next start is faster
    cpu_affinity: cores that the worker process may run on, e.g. `0-3,8`. It is the worker that keeps to them, whatever the engine
    """

    threads: int | None = None
    slots: int | None = None
    batch_tokens: int | None = None
    microbatch_tokens: int | None = None
    context_tokens: int | None = None
    kv_type: str | None = None
    flash_attention: bool | None = None
    device_layers: int | None = None
    tensor_split: tuple[float, ...] | None = None
    prefix_cache: bool | None = None
    load_mode: str | None = None
    speculation: str | None = None
    draft: str | None = None
    draft_tokens: int | None = None
    ngram_tokens: int | None = None
    compile_cache: bool | None = None
    cpu_affinity: str | None = None

    def given(self) -> dict[str, Any]:
        """The settings that are not left to the engine's default."""
        return {key: value for key, value in dataclasses.asdict(self).items() if value is not None}

    def only(self, names: Iterable[str]) -> dict[str, Any]:
        """The given settings among `names`, e.g. an engine's numeric ones."""
        wanted = set(names)
        return {key: value for key, value in self.given().items() if key in wanted}

    def identity(self, names: Iterable[str] | None = None) -> dict[str, Any]:
        """What of the given settings (among `names`) makes a deployment what it is: not where its draft lies, its weights name that."""
        found = self.given() if names is None else self.only(names)
        return {key: value for key, value in found.items() if key != "draft"}

    @classmethod
    def parse(cls, values: Mapping[str, Any]) -> "Settings":
        """Settings from a mapping of plain values (TOML, JSON). Raises InputError for an unknown name."""
        known = {item.name for item in dataclasses.fields(cls)}
        for key in values:
            if key not in known:
                raise InputError(f"Unknown setting {key!r}; the settings are {', '.join(sorted(known))}.")
        clean = dict(values)
        if clean.get("tensor_split") is not None:
            clean["tensor_split"] = tuple(float(share) for share in clean["tensor_split"])
        if clean.get("cpu_affinity") is not None:
            cores_named(clean["cpu_affinity"])
        return cls(**clean)


def cores_named(text: str) -> frozenset[int]:
    """The cores in a list such as `0-3,8`. Raises InputError for anything else."""
    cores: set[int] = set()
    for part in str(text).split(","):
        found = re.fullmatch(r"\s*(\d{1,5})(?:-(\d{1,5}))?\s*", part)
        first, last = (int(found[1]), int(found[2] or found[1])) if found else (1, 0)
        if last < first:
            raise InputError(f"cpu_affinity takes cores such as 0-3 or 0,2,4-7, not {text!r}.")
        cores.update(range(first, last + 1))
    return frozenset(cores)


@dataclass(frozen=True, kw_only=True)
class EngineBuild:
    """Which build of which engine: what must be equal for two runs to be the same. `details`: compile flags, library versions."""

    engine: str
    version: str
    details: str = ""

    @property
    def digest(self) -> str:
        return digest_of(self)


@dataclass(frozen=True, kw_only=True)
class Machine:
    """This machine. Rates are measured here (None = not measured). Both are medians over short repeats.

    read_gb_s: memory read bandwidth with all cores, GB/s (1e9)
    matmul_gflop_s: float32 matrix multiplication rate with all cores, GFLOP/s (1e9)
    """

    cpu: str
    n_cores: int
    memory_bytes: int
    flags: tuple[str, ...] = ()
    accelerators: tuple[str, ...] = ()
    system: str = ""
    read_gb_s: float | None = None
    matmul_gflop_s: float | None = None

    @property
    def digest(self) -> str:
        """Identity of the hardware; measured rates are left out, they differ from day to day."""
        return digest_of([self.cpu, self.n_cores, self.memory_bytes, self.flags, self.accelerators])


@dataclass(frozen=True, kw_only=True)
class Deployment:
    """Snapshot + recipe + engine build + settings. Its digest is its identity.

    weights_sha256: digest of the snapshot the engine opens (after the recipe), with its draft if it has one
    source_sha256: digest of the snapshot the recipe started from
    template_sha256: digest of the chat template that is rendered
    """

    weights_sha256: str
    source_sha256: str
    template_sha256: str
    recipe: str
    build: EngineBuild
    settings: Settings

    @property
    def digest(self) -> str:
        """Identity. A setting left to the engine counts as absent, so that a new name in `Settings` changes no deployment's identity."""
        return digest_of({**dataclasses.asdict(self), "settings": self.settings.identity()})


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A deployment together with the local files that make it runnable.

    id: short name, unique in a run, e.g. `openvino int8-asym`
    snapshot: what the engine opens (after the recipe); source_sha256: digest of what the recipe started from
    numeric: names of the engine's settings that may change outputs
    """

    id: str
    engine: str
    recipe: str
    settings: Settings
    snapshot: Snapshot
    source_sha256: str
    template_sha256: str
    build: EngineBuild
    numeric: frozenset[str]

    @property
    def deployment(self) -> Deployment:
        return Deployment(
            weights_sha256=self.snapshot.digest,
            source_sha256=self.source_sha256,
            template_sha256=self.template_sha256,
            recipe=self.recipe,
            build=self.build,
            settings=self.settings,
        )

    @property
    def numeric_sha256(self) -> str:
        """Identity of what may change outputs: weights, template, build and numeric settings."""
        return digest_of([self.snapshot.digest, self.template_sha256, self.build, self.settings.identity(self.numeric)])


@dataclass(frozen=True, kw_only=True)
class CandidateSpec:
    """What a user types for one side of a comparison: `[engine:]source[?key=value&...]`.

    engine: empty = chosen by the source's format; recipe: empty = as shipped; settings: those given
    """

    source: str
    engine: str = ""
    recipe: str = ""
    settings: Settings = field(default_factory=Settings)


SOURCE_SCHEMES = ("hf", "pypi", "openai")
"""Words before a colon that begin a source and are no engine."""


def parse_spec(text: str, engines: Collection[str]) -> CandidateSpec:
    """`llamacpp:m.gguf?recipe=llamacpp-q8_0&threads=2` as a CandidateSpec. `engines`: the names that may stand before the colon.

    Raises InputError for an empty source, a broken query, an unknown setting or a value of the wrong kind.
    """
    body, _, query = text.partition("?")
    head, colon, rest = body.partition(":")
    engine, source = (head, rest) if colon and head in engines else ("", body)
    if not engine and colon and len(head) > 1 and head.isidentifier() and head not in SOURCE_SCHEMES:
        raise InputError(f"Unknown engine {head!r} in {text!r}; the engines are {', '.join(engines)}.")
    if not source:
        raise InputError(f"{text!r} names no model; write a path or a source such as pypi:NAME==VERSION, after the engine if one is given.")
    recipe, values = "", {}
    for pair in filter(None, query.split("&")):
        key, equals, value = pair.partition("=")
        if not equals or not value:
            raise InputError(f"{pair!r} in {text!r} is not of the form key=value.")
        if key == "recipe":
            recipe = value
        else:
            values[key] = _setting_value(key, value, text)
    return CandidateSpec(source=source, engine=engine, recipe=recipe, settings=Settings.parse(values))


def _setting_value(key: str, value: str, text: str) -> Any:
    """The typed value of a setting written as text."""
    kinds = {item.name: str(item.type) for item in dataclasses.fields(Settings)}
    kind = kinds.get(key, "str")
    try:
        if kind.startswith("int"):
            return int(value)
        if kind.startswith("bool"):
            return {"true": True, "on": True, "1": True, "false": False, "off": False, "0": False}[value.lower()]
        if kind.startswith("tuple"):
            return [float(share) for share in value.split(",")]
    except (ValueError, KeyError):
        raise InputError(f"Setting {key} in {text!r} takes {kind.split(' ')[0]}, not {value!r}.") from None
    return value
