"""Published rows to serving jobs with what was measured on them, or the reason why not.

Two kinds of table are read, told apart by their columns: sweeps of servers (`silicon_ttft_ms`, `silicon_tpot_ms`) and collections of
inference figures (`tok_s_per_user`, `prefill_tok_s`, ...). Devices, models, engines and precisions are written freely in both.
"""

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from trimtab.core.errors import InputError
from trimtab.core.planning import Architecture, Device, ServeJob
from trimtab.plan import operators
from trimtab.plan.anchors.scheme import Anchor
from trimtab.plan.architectures import architecture
from trimtab.plan.devices import device
from trimtab.plan.serving.loads import weight_bytes_per_device
from trimtab.plan.serving.memory import budget
from trimtab.plan.stored_types import bits_by_part

Row = Mapping[str, str]

ENGINES = (
    ("llama.cpp", "llamacpp"),
    ("llamacpp", "llamacpp"),
    ("mlx", "mlx"),
    ("gpt-fast", "gpt-fast"),
    ("sglang", "sglang"),
    ("tensorrt", "trtllm"),
    ("trt-llm", "trtllm"),
    ("trtllm", "trtllm"),
    ("nim", "trtllm"),
    ("vllm", "vllm"),
    ("fastertransformer", "fastertransformer"),
    ("pytorch", "pytorch"),
)
"""What an engine's free name holds -> its name here; the first that fits."""

MLPERF_LENGTHS = {
    "llama-2-70b": (294, 294),
    "llama-3.1-405b": (9428, 684),
    "llama-3.1-8b": (778, 73),
    "mixtral-8x7b": (328, 145),
    "deepseek-v3": (800, 3880),
    "gpt-j-6b": (778, 69),
}
"""Mean tokens in and out of MLPerf Inference's data sets by model (github:mlcommons/inference, language/*/README.md)."""


@dataclass(frozen=True, kw_only=True)
class Refused:
    """A row that is not predicted, and why, in one sentence."""

    id: str
    why: str


@dataclass(frozen=True, kw_only=True)
class Case:
    """A job and what was measured on it, by quantity: `ttft_ms`, `tpot_ms`, `decode_tok_s`, `prefill_tok_s`, `output_tok_s`.

    form: `aggregated`, `disaggregated`, `alone` (one sequence, nothing else), `full` (as many requests as it takes)
    decode_context: mean tokens in the cache while decoding was timed; 0 = prompt and half of the output
    n_replicas: that the measured rates sum over
    told: further words about the row for the residual: `load`, how a benchmark loads the server
    """

    id: str
    job: ServeJob
    form: str
    measured: Mapping[str, float]
    source: str
    decode_context: float = 0.0
    n_replicas: int = 1
    told: Mapping[str, str] = field(default_factory=dict)

    @property
    def setting(self) -> str:
        job = self.job
        layout = (job.tp, job.pp, job.ep, job.attention_dp, job.prefill_devices, job.decode_devices, job.prefill_tp, job.prefill_ep)
        what = (job.architecture.name, job.device.name, job.engine, job.weights, self.form)
        load = (job.prompt_tokens, job.output_tokens, job.concurrency, self.n_replicas)
        return " ".join(str(part) for part in (*what, *layout, *load))


def cases(rows: Iterable[Row]) -> tuple[tuple[Case, ...], tuple[Refused, ...]]:
    """Every row that can be understood. One measurement told twice is kept once."""
    found: list[Case] = []
    refused: list[Refused] = []
    seen: dict[tuple[object, ...], str] = {}
    for number, row in enumerate(rows, 1):
        name = row.get("id") or f"row {number}"
        try:
            case = _sweep(row, name) if "silicon_tpot_ms" in row else _figure(row, name)
        except InputError as error:
            refused.append(Refused(id=name, why=str(error)))
            continue
        key = (case.job.architecture.name, *sorted(case.measured.items()), case.job.concurrency, case.job.prompt_tokens)
        if key in seen:
            refused.append(Refused(id=name, why=f"It repeats the measurement of {seen[key]}."))
            continue
        seen[key] = name
        found.append(case)
    return tuple(found), tuple(refused)


def anchors(rows: Iterable[Row]) -> tuple[tuple[Anchor, ...], tuple[Refused, ...]]:
    """One anchor a measured number: what physics says, and what it leaves."""
    from trimtab.plan.serving.features import anchor_of  # features reads cases

    found, refused = cases(rows)
    made: list[Anchor] = []
    unpredicted: list[Refused] = list(refused)
    for case in found:
        try:
            made += [anchor_of(case, quantity) for quantity in case.measured]
        except InputError as error:
            unpredicted.append(Refused(id=case.id, why=str(error)))
    return tuple(made), tuple(unpredicted)


def _whole(row: Row, name: str, default: int) -> int:
    """0 stands for `none` in these tables."""
    text = (row.get(name) or "").strip()
    try:
        return int(float(text)) or default if text else default
    except ValueError:
        raise InputError(f"`{name}` is `{text}`, which is no number.") from None


def _number(row: Row, name: str) -> float:
    text = (row.get(name) or "").strip()
    try:
        value = float(text) if text else 0.0
    except ValueError:
        return 0.0
    return value if math.isfinite(value) and value > 0 else 0.0


def engine_of(text: str) -> str:
    """`TensorRT-LLM v1.0 (PyTorch backend)` -> `trtllm`; "" where none is known."""
    lower = text.lower()
    return next((name for part, name in ENGINES if part in lower), "")


def weights_of(text: str, shape: Architecture, hint: str = "") -> str:
    """A precision as written -> a stored type. `hint`: the model's written name, which says it where the precision does not."""
    lower = re.sub(r"gemm\s*", "", text.lower()).split("/")[0].strip() or hint.lower()
    if shape.name.startswith("gpt-oss") and ("fp4" in lower or not text.strip()):
        return "mxfp4"
    if "int4" in lower and (shape.name.startswith("kimi-k2") or ("int4_wo" in lower and operators.is_moe(shape))):
        return "int4_experts"
    for part, name in (
        ("fp4", "nvfp4"),
        ("fp8", "fp8"),
        ("int8", "int8"),
        ("int4", "int4"),
        ("bf16", "bf16"),
        ("fp16", "fp16"),
        ("f16", "fp16"),
    ):
        if part in lower:
            return "int4_g32" if name == "int4" and "g32" in lower else name
    written = text.split()[0] if text.strip() else ""
    if re.fullmatch(r"(?i)i?q\d.*|u?int\d|f32|fp32", written):
        bits_by_part(written, shape)
        return written.lower()
    if not text.strip():
        return "bf16"
    raise InputError(f"Its precision `{text}` is not known.")


def _world(tp: int, dp: int, moe_tp: int, ep: int, *, heads: int) -> tuple[int, int, int]:
    """tp, ep, attention_dp. Sweeps count one group of n devices as n * n where an engine's flags name it twice (tp and ep, tp and dp), and
    call data-parallel attention tp where that does not divide the heads."""
    if moe_tp == ep > 1 and tp * dp == ep * ep:
        tp, dp = min(tp, ep), min(dp, ep)
    elif tp == dp > 1 and moe_tp * ep == tp * dp:
        tp, ep = 1, dp
    if heads % tp:
        tp, dp, ep = 1, tp * dp, tp * dp
    if (tp * dp) % ep:
        ep = math.gcd(tp * dp, ep)
    return tp, ep, dp


def _heads(shape: Architecture) -> int:
    return next((block.attention.n_heads for block in shape.blocks if block.attention and block.attention.kind != "recurrent"), 1)


def _layout(row: Row, prefix: str, shape: Architecture) -> tuple[int, int, int]:
    names = [f"{prefix}{name}_size" for name in ("tp", "attention_dp", "moe_tp", "moe_ep")]
    tp, dp, moe_tp, ep = (_whole(row, name, 1) for name in names)
    return _world(tp, dp, moe_tp, ep if operators.is_moe(shape) else 1, heads=_heads(shape))


def _sweep(row: Row, name: str) -> Case:
    """A row of a server's sweep over concurrency."""
    told = row.get("silicon_data_source", "")
    match = re.search(r"silicon_concurrency=(\d+)", told)
    if not match:
        raise InputError("Its concurrency is not told.")
    shape, machine = architecture(row["model_path"]), device(row["system"])
    precision = row.get("gemm_quant_mode") or row.get("precision") or ""
    weights, engine = weights_of(precision, shape, row["model_path"].split("/")[-1]), row["backend"]
    apart = row.get("mode") == "disagg"
    if apart and not (row.get("prefill_num_workers") and row.get("decode_num_workers")):
        raise InputError("Its numbers of prefill and decode workers are not told, on which the load of each depends.")
    tp, ep, dp = _layout(row, "decode_" if apart else "", shape)
    before = _layout(row, "prefill_", shape) if apart else (0, 0, 0)
    job = ServeJob(
        architecture=shape,
        device=machine,
        engine=engine,
        weights=weights,
        kv=_kv(engine, weights),
        tp=tp,
        ep=ep,
        pp=_whole(row, "decode_pp_size" if apart else "pp_size", 1),
        attention_dp=dp,
        concurrency=int(match.group(1)),
        prompt_tokens=_whole(row, "isl", 1),
        output_tokens=_whole(row, "osl", 1),
        prefill_devices=_whole(row, "prefill_num_workers", 1) * before[0] * before[2] if apart else 0,
        decode_devices=_whole(row, "decode_num_workers", 1) * tp * dp if apart else 0,
        prefill_tp=before[0],
        prefill_ep=before[1],
        prefill_attention_dp=before[2],
    )
    measured = {"ttft_ms": _number(row, "silicon_ttft_ms"), "tpot_ms": _number(row, "silicon_tpot_ms")}
    return Case(
        id=name,
        job=job,
        form="disaggregated" if apart else "aggregated",
        measured={key: value for key, value in measured.items() if value},
        source=family_of(told),
    )


def family_of(told: str) -> str:
    """The file a row of a sweep came from, without what varies inside it: `2026-04-06.csv`, `db-dump`, `auto-gap-analysis`."""
    first = told.split(";")[0].removeprefix("source_file=").strip()
    parts = [part for part in first.split("/") if part]
    if len(parts) > 3:
        return next((part for part in parts if "analysis" in part), parts[0])
    return parts[0] if parts else "not told"


def _kv(engine: str, weights: str) -> str:
    """TensorRT-LLM keeps an 8-bit cache with 8- and 4-bit weights; the others keep 16 bits unless they are told."""
    return "fp8" if engine == "trtllm" and weights in ("fp8", "nvfp4") else "bf16"


def _figure(row: Row, name: str) -> Case:
    """A row of collected figures."""
    scenario, engine = row.get("scenario", ""), engine_of(row.get("engine", ""))
    shape, machine = architecture(row["model"]), device(row["device"])
    n_devices = _whole(row, "n_devices", 0)
    if not n_devices:
        raise InputError("Its number of devices is not told.")
    if "production" in scenario or "disagg" in scenario or "PD" in scenario:
        raise InputError("Its layout and load are not told fully.")
    if "not stated" in row.get("precision", ""):
        raise InputError("Its precision is not told.")
    weights = weights_of(row.get("precision", ""), shape, row["model"])
    common = {"architecture": shape, "device": machine, "engine": engine, "weights": weights, "kv": _kv(engine, weights)}
    if engine in ("llamacpp", "mlx", "gpt-fast") or "bs=1" in scenario or scenario.startswith("prefill/decode"):
        return _alone(row, name, common, n_devices)
    return _loaded(row, name, common, n_devices)


def _alone(row: Row, name: str, common: Mapping[str, object], n_devices: int) -> Case:
    """One sequence: rates of decoding and of one prompt."""
    engine, scenario = str(common["engine"]), row.get("scenario", "")
    split = engine == "llamacpp"
    tp = _whole(row, "tp", 1 if split else n_devices)
    isl, osl = _whole(row, "isl", 1), _whole(row, "osl", 128)
    batch = _whole(row, "batch_or_concurrency", 1)
    if batch > 1:
        raise InputError(f"Its batch of {batch} is not one sequence.")
    job = _job(common, tp=tp, pp=n_devices if split else 1, prompt_tokens=isl, output_tokens=osl)
    decode = _number(row, "tok_s_per_user")
    if not decode and _number(row, "tpot_ms"):
        decode = 1000.0 / _number(row, "tpot_ms")
    prefill = _number(row, "prefill_tok_s")
    if not prefill and _number(row, "ttft_ms") and isl > 1:
        prefill = 1000.0 * isl / _number(row, "ttft_ms")
    measured = {"decode_tok_s": decode, "prefill_tok_s": prefill}
    if not decode and not prefill:
        raise InputError("It holds no rate of one sequence.")
    separate = "separate" in scenario or re.search(r"pp\d+/tg\d+|gen\d+", scenario)
    return Case(
        id=name,
        job=job,
        form="alone",
        measured={key: value for key, value in measured.items() if value},
        source=row.get("source", ""),
        decode_context=osl / 2.0 if separate else 0.0,
    )


def _loaded(row: Row, name: str, common: Mapping[str, object], n_devices: int) -> Case:
    """A server under a load, or as full as it gets."""
    shape, scenario = common["architecture"], row.get("scenario", "")
    assert isinstance(shape, Architecture)
    lengths = MLPERF_LENGTHS.get(shape.name, (0, 0)) if "MLPerf" in scenario else (0, 0)
    isl, osl = _whole(row, "isl", lengths[0]), round(_number(row, "osl")) or lengths[1]
    if not isl or not osl:
        raise InputError("Its prompt and output lengths are not told.")
    concurrency = _whole(row, "batch_or_concurrency", 0)
    full = not concurrency
    machine = common["device"]
    assert isinstance(machine, Device)
    tp, pp = _whole(row, "tp", 0), _whole(row, "pp", 1)
    ep = _whole(row, "ep", 1) if (row.get("ep") or "0").isdigit() else 1
    if not tp:
        tp = _least_tp(common, n_devices, isl, osl)
    job = _job(common, tp=tp, pp=pp, ep=ep if (tp % ep == 0 and operators.is_moe(shape)) else 1, prompt_tokens=isl, output_tokens=osl)
    replicas = max(1, n_devices // (tp * pp))
    total = _number(row, "out_tok_s_total") or _number(row, "out_tok_s_per_device") * n_devices
    measured = {"ttft_ms": _number(row, "ttft_ms"), "tpot_ms": _number(row, "tpot_ms"), "output_tok_s": total}
    if full:
        measured |= {"ttft_ms": 0.0, "tpot_ms": 0.0}
    if not any(measured.values()):
        raise InputError("It holds no time or rate that can be predicted.")
    load = re.search(r"Offline|Server|Interactive", scenario)
    return Case(
        id=name,
        job=_job(common, tp=tp, pp=pp, ep=job.ep, prompt_tokens=isl, output_tokens=osl, concurrency=concurrency or _most(job)),
        form="full" if full else "aggregated",
        measured={key: value for key, value in measured.items() if value},
        source=row.get("source", ""),
        n_replicas=replicas,
        told={"load": load.group(0) if load else "Offline"},
    )


FULL_BATCH = 2048
"""Most requests that servers batch when they are as full as they get."""


def _job(common: Mapping[str, object], **changes: int) -> ServeJob:
    return ServeJob(**common, **changes)  # type: ignore[arg-type]


def _most(job: ServeJob) -> int:
    return max(1, min(FULL_BATCH, budget(job).max_concurrency))


def _least_tp(common: Mapping[str, object], n_devices: int, isl: int, osl: int) -> int:
    """The fewest devices, in powers of two, whose memory the weights leave 40 % of: what those who tune for rate choose."""
    tp = 1
    while tp < n_devices:
        job = _job(common, tp=tp, prompt_tokens=isl, output_tokens=osl)
        if weight_bytes_per_device(job) < 0.6 * job.device.memory_bytes:
            break
        tp *= 2
    return min(tp, n_devices)
