"""What a plan speaks of: devices, architectures, jobs, and predictions with what stands behind them.

Sizes are decimal and in base units (bytes, bytes/s, FLOP/s, s) unless a name says otherwise. A rate that is not known is 0, never a guess.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Basis = Literal["measured", "interpolated", "extrapolated", "speed-of-light"]
AttentionKind = Literal["full", "sliding", "mla", "recurrent"]
DTYPES = ("fp32", "tf32", "bf16", "fp16", "fp8", "int8", "fp4")


@dataclass(frozen=True, kw_only=True)
class Fact:
    """One number of the catalog and where it is from.

    source: address or citation; verified: read at the source itself, not at second hand; as_of: ISO date of what goes stale (prices)
    """

    value: float
    source: str
    verified: bool
    as_of: str = ""


@dataclass(frozen=True, kw_only=True)
class Device:
    """One accelerator, processor or system on a chip, as sold. One TOML each in catalog/hardware.

    peak_flop_s: dense peak by type of operand (`DTYPES`); a type that it cannot multiply natively is absent
    matmul_flop_s: measured rate of a large matrix product, by type; caps every prediction where it is known
    link_bytes_s: one direction, all links of one device together, inside a node or scale-up domain of `devices_per_node` devices
    network_bytes_s: one direction, of one device's share of its node's network, in the usual system; 0 = not known
    facts: by the name of the number in the TOML, e.g. `memory_bytes`, `bf16_flop_s`; also numbers that have no field here
    notes: what a person should know of it
    """

    name: str
    vendor: str
    kind: Literal["gpu", "tpu", "accelerator", "cpu", "soc"]
    year: int
    aliases: tuple[str, ...] = ()
    peak_flop_s: Mapping[str, float] = field(default_factory=dict)
    matmul_flop_s: Mapping[str, float] = field(default_factory=dict)
    memory_bytes: float = 0.0
    memory_bytes_s: float = 0.0
    link_name: str = ""
    link_bytes_s: float = 0.0
    devices_per_node: int = 1
    network_bytes_s: float = 0.0
    host_link_bytes_s: float = 0.0
    power_w: float = 0.0
    facts: Mapping[str, Fact] = field(default_factory=dict)
    notes: str = ""


@dataclass(frozen=True, kw_only=True)
class Attention:
    """How a layer mixes tokens.

    kind: `full`, `sliding` (over `window_tokens`), `mla` (latents of `kv_rank` + `rope_dim` are kept), `recurrent` (a state of
        `state_values` numbers a sequence is kept: linear attention, Mamba)
    head_dim: of queries and keys; value_dim: of values, 0 = head_dim
    q_rank, kv_rank, rope_dim: of MLA, else 0
    n_params: of all projections; 0 = from the shape
    index_heads, index_dim, index_tokens: of sparse attention: an indexer of small heads, whose keys are kept too, picks the tokens
        that a query attends to; 0 = all
    """

    kind: AttentionKind
    n_heads: int
    n_kv_heads: int
    head_dim: int
    value_dim: int = 0
    window_tokens: int = 0
    q_rank: int = 0
    kv_rank: int = 0
    rope_dim: int = 0
    state_values: int = 0
    n_params: int = 0
    index_heads: int = 0
    index_dim: int = 0
    index_tokens: int = 0


@dataclass(frozen=True, kw_only=True)
class Feedforward:
    """How a layer transforms a token.

    gated: three matrices (SwiGLU, GeGLU), else two
    n_experts: routed experts of width `d_ff` each, of which a token passes `n_experts_used`; 0 = one dense network of width `d_ff`
    d_shared: summed width of the experts that every token passes; 0 = none
    d_latent: width that tokens are projected to before the routed experts; 0 = the model's own
    """

    d_ff: int
    gated: bool = True
    n_experts: int = 0
    n_experts_used: int = 0
    d_shared: int = 0
    d_latent: int = 0


@dataclass(frozen=True, kw_only=True)
class Block:
    """`n_layers` equal layers. None: the layer has no such part (hybrids)."""

    n_layers: int
    attention: Attention | None = None
    feedforward: Feedforward | None = None


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """A decoder's shape. Well-known ones are TOML in catalog/architectures; any described model gives one (`plan.architectures`).

    blocks: grouped, in order of first appearance, so layers of one group need not be neighbours
    tied: the embedding table is the output matrix too
    position_rows: of a learned table of positions; 0 = none
    predict_layers: extra layers that predict further tokens in training and for drafts; in no other number here
    n_params: as published or counted from tensors; 0 = from the shape
    weight_bytes: of the stored weights; 0 = not tied to a file
    published_weights: the type that the maker published them in, which needs no proof of quality
    source: of the numbers
    """

    name: str
    d_model: int
    vocab_size: int
    blocks: tuple[Block, ...]
    tied: bool = False
    position_rows: int = 0
    predict_layers: int = 0
    context_tokens: int = 0
    n_params: int = 0
    weight_bytes: float = 0.0
    published_weights: str = "bf16"
    aliases: tuple[str, ...] = ()
    source: str = ""

    @property
    def n_layers(self) -> int:
        return sum(block.n_layers for block in self.blocks)


@dataclass(frozen=True, kw_only=True)
class TrainJob:
    """What is to be trained, on what. The layout comes apart from it (`plan.training.layouts`).

    precision: of the matrix products: `bf16`, `fp16`, `fp8`, `mxfp8`, `nvfp4`, `fp32`
    framework: `megatron`, `fsdp`, `torchtitan`, `composer`, `maxtext`, `deepspeed`, `nanotron`, `nemo`, `trimtab`; "" = not told
    tokens: to train on in all; 0 = not asked
    trains: all weights, or small adapters beside frozen ones (LoRA)
    """

    architecture: Architecture
    device: Device
    n_devices: int
    seq_tokens: int
    global_batch_seqs: int
    precision: str = "bf16"
    framework: str = ""
    optimizer: str = "adamw"
    tokens: float = 0.0
    trains: Literal["all", "adapters"] = "all"


@dataclass(frozen=True, kw_only=True)
class ServeJob:
    """One replica of a model that answers requests: what, on what, laid out how, under which load.

    engine: `vllm`, `sglang`, `trtllm`, `llamacpp`, `mlx`, `openvino`, `gpt-fast`, ...; "" = not told
    weights, kv: stored types: `bf16`, `fp8`, `nvfp4`, `mxfp4`, `int8`, `int4`, or a GGUF type such as `Q4_K_M`
    tp, pp, ep, attention_dp: degrees; tp * pp * attention_dp devices serve one replica of an aggregated deployment
    concurrency: requests in flight at the replica; cached_prompt_tokens: of prompt_tokens, found in the prefix cache
    prefill_devices, decode_devices: of a disaggregated deployment, else 0; there tp, ep and attention_dp are of a decode worker, and
        prefill_tp, prefill_ep and prefill_attention_dp of a prefill worker (0 = the same)
    draft_tokens, accept_rate: of speculative decoding: drafted a step, and the chance that a drafted token is taken if all before it were
    """

    architecture: Architecture
    device: Device
    engine: str = ""
    weights: str = "bf16"
    kv: str = ""
    tp: int = 1
    pp: int = 1
    ep: int = 1
    attention_dp: int = 1
    concurrency: int = 1
    prompt_tokens: int = 512
    output_tokens: int = 128
    cached_prompt_tokens: int = 0
    prefill_devices: int = 0
    decode_devices: int = 0
    prefill_tp: int = 0
    prefill_ep: int = 0
    prefill_attention_dp: int = 0
    draft_tokens: int = 0
    accept_rate: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """One predicted number with its interval.

    quantity: e.g. `tok_s_per_device`, `step_time_s`, `peak_memory_bytes`, `ttft_ms`, `tpot_ms`, `prefill_tok_s`, `decode_tok_s`
    low, high: ends of the interval that holds `level` of such numbers, by conformal calibration on published runs
    basis: how near measured runs are; `why`: which, or what is assumed, in one sentence
    speed_of_light: the same by peak rates alone, which nothing can beat
    """

    quantity: str
    value: float
    low: float
    high: float
    unit: str
    basis: Basis
    why: str
    level: float = 0.9
    speed_of_light: float | None = None


@dataclass(frozen=True, kw_only=True)
class Unknown:
    """A number that nothing measured supports; shown as unknown, with the reason."""

    quantity: str
    why: str


@dataclass(frozen=True, kw_only=True)
class Price:
    """What `n_devices` of a device cost together for an hour, on a day, at a provider.

    device: its name; commitment: `on-demand`, `spot`, `1-year`, `3-year`, or `lowest listed` of a market place; region: "" = not told
    as_of: ISO date; verified: read at the source itself
    """

    device: str
    provider: str
    commitment: str
    usd_per_hour: float
    n_devices: int
    as_of: str
    source: str
    verified: bool
    region: str = ""

    @property
    def usd_per_device_hour(self) -> float:
        return self.usd_per_hour / self.n_devices


@dataclass(frozen=True, kw_only=True)
class Grid:
    """Electricity of a country: g CO2e a kWh over its life cycle and USD a kWh for industry, yearly means. None = not known."""

    region: str
    name: str
    g_co2_kwh: Fact | None
    usd_kwh: Fact | None


@dataclass(frozen=True, kw_only=True)
class StorageTier:
    """Where weights and checkpoints lie. per: `node` = each node has the rates, `run` = all nodes share them. None = not known."""

    name: str
    about: str
    per: Literal["node", "run"]
    read_bytes_s: Fact | None
    write_bytes_s: Fact | None


@dataclass(frozen=True, kw_only=True)
class Loader:
    """What brings weights from storage to devices, and how fast at most. per_device: with more devices it is so many times faster."""

    name: str
    about: str
    per_device: bool
    read_bytes_s: Fact
