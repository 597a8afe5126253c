"""Plans with round numbers: one of each kind, for the tests of pages and tables."""

from typing import Any

GB = 1e9


def number(
    value: float, unit: str, basis: str = "interpolated", *, spread: float = 0.1, why: str = "Runs of H100s lie near."
) -> dict[str, Any]:
    return {
        "value": value,
        "low": value * (1 - spread),
        "high": value * (1 + spread),
        "unit": unit,
        "basis": basis,
        "why": why,
        "level": 0.9,
        "speed_of_light": None,
    }


def memory(total: float, capacity: float = 80 * GB, **parts: float) -> dict[str, Any]:
    return {
        "parts": [{"name": name, "value": value} for name, value in parts.items()],
        "total_bytes": total,
        "low": total * 0.95,
        "high": total * 1.05,
        "capacity_bytes": capacity,
    }


PRICES = [
    {
        "device": "h100-sxm",
        "provider": "a cloud",
        "commitment": "on demand",
        "usd_per_hour": 2.5,
        "as_of": "2026-03-01",
        "source": "https://example.org/prices",
        "is_stale": True,
        "age_days": 271,
    }
]
MODEL = {"name": "llama-3.1-8b", "text": "8.03 B parameters, 32 layers", "n_params": 8.03e9, "source": "config.json"}


def train_option(rank: int, n_devices: int, days: float, *, on_front: bool = True, basis: str = "interpolated") -> dict[str, Any]:
    total = 62.0 * GB - rank * 2 * GB
    return {
        "rank": rank,
        "id": f"h100-sxm:{n_devices}:dp={n_devices}",
        "what": f"{n_devices} × h100-sxm",
        "how": f"DP {n_devices // 8}, TP 8, micro-batch 1 × 16, selective recomputation",
        "device": "h100-sxm",
        "n_devices": n_devices,
        "layout": {"dp": n_devices // 8, "tp": 8, "pp": 1, "micro_batch": 1, "grad_accum": 16},
        "on_front": on_front,
        "numbers": {
            "duration_s": number(days * 86_400, "s", basis),
            "cost_usd": number(days * 24 * n_devices * 2.5, "usd", basis),
            "tok_s_per_device": number(9_800 - 200 * rank, "tok/s", basis),
            "mfu": number(0.44 - 0.01 * rank, "share", basis),
            "peak_memory_bytes": number(total, "bytes", "extrapolated", why="No run of this layout was measured."),
            "energy_kwh": {"unknown": "The power that such a run draws was not measured."},
        },
        "memory": memory(total, weights=4 * GB, gradients=8 * GB, optimizer=20 * GB, activations=total - 36 * GB, overhead=4 * GB),
        "time": {
            "what": "a step",
            "unit": "s",
            "parts": [
                {"name": "forward", "value": 1.2},
                {"name": "backward", "value": 2.5},
                {"name": "tensor parallel", "value": 0.4},
                {"name": "waiting in the pipeline", "value": 0.3},
                {"name": "optimizer", "value": 0.1},
            ],
            "stages": {"n": 4, "n_micro": 8, "forward_s": 0.15, "backward_s": 0.31},
        },
        "notes": [],
    }


def plot(title: str, x: tuple[str, str], y: tuple[str, str], points: list[dict[str, Any]]) -> dict[str, Any]:
    return {"title": title, "x": {"title": x[0], "unit": x[1]}, "y": {"title": y[0], "unit": y[1]}, "points": points}


def point(row: dict[str, Any], x: str, y: str) -> dict[str, Any]:
    across, up = row["numbers"][x], row["numbers"][y]
    ends = {"x_low": across["low"], "x_high": across["high"]}
    return {"name": row["what"], "x": across["value"], "y": up["value"], **ends, "on_front": row["on_front"], "rank": row["rank"]}


def train_plan() -> dict[str, Any]:
    options = [train_option(1, 64, 5.5), train_option(2, 128, 2.9), train_option(3, 32, 11.5, on_front=False, basis="extrapolated")]
    return {
        "schema": "trimtab.plan/1",
        "kind": "train",
        "found": True,
        "headline": "64 × h100-sxm train llama-3.1-8b on 300B tokens in 5.5 days for $21k",
        "reasons": ["Within the budget of $100k; 3 of 3 device counts can do it."],
        "question": {"model": "llama-3.1-8b", "hardware": ["h100-sxm"], "tokens": 3e11, "budget_usd": 1e5},
        "model": MODEL,
        "options": options,
        "plots": [
            plot(
                "Cost against time",
                ("time", "s"),
                ("cost", "usd"),
                [point(row, "duration_s", "cost_usd") for row in options],
            ),
            plot(
                "Memory against time",
                ("time", "s"),
                ("memory", "bytes"),
                [point(row, "duration_s", "peak_memory_bytes") for row in options],
            ),
        ],
        "losers": [
            {"about": "tp", "text": "tp=4: 18 % slower: 61 ms more of tensor-parallel messages."},
            {"about": "tp", "text": "tp=1: needs 131.0 GB of 80 GB, 90.0 GB of it optimizer."},
        ],
        "assumptions": ["AdamW, states in 32 bits.", "A rate of failures of none."],
        "conventions": "MFU: 6N plus causal attention over the dense bf16 peak.",
        "prices": PRICES,
        "searched": {"n": 1024, "elapsed_s": 0.2, "text": "1,024 layouts in 0.2 s."},
        "what_if": {
            "kind": "train",
            "tokens": 3e11,
            "rows": [
                {"name": row["what"], "n_devices": row["n_devices"], "how": row["how"], "usd_per_device_hour": 2.5,
                 "tok_s": row["numbers"]["tok_s_per_device"]["value"] * row["n_devices"]}
                for row in sorted(options, key=lambda row: row["n_devices"])
            ],
        },
        "emitted": {},
    }  # fmt: skip


def serve_plan(*, found: bool = True) -> dict[str, Any]:
    row = {
        "rank": 1,
        "id": "h100-sxm:vllm:fp8:tp=1",
        "what": "3 × (1 × h100-sxm)",
        "how": "vllm, fp8 weights, TP 1, 48 at once",
        "device": "h100-sxm",
        "n_devices": 3,
        "layout": {"tp": 1, "replicas": 3, "concurrency": 48},
        "on_front": True,
        "numbers": {
            "ttft_ms": number(210.0, "ms"),
            "tpot_ms": number(14.0, "ms"),
            "cost_usd_per_hour": number(7.5, "usd/h"),
            "cost_usd_per_mtok": number(0.81, "usd/Mtok"),
            "peak_memory_bytes": number(41 * GB, "bytes"),
        },
        "memory": memory(41 * GB, weights=9 * GB, kv_cache=28 * GB, activations=2 * GB, overhead=2 * GB),
        "time": {"what": "a request", "unit": "ms", "stages": None,
                 "parts": [{"name": "prefill", "value": 210.0}, {"name": "decode", "value": 1778.0}]},
        "notes": [],
    }  # fmt: skip
    plan = train_plan() | {
        "kind": "serve",
        "headline": "3 × (1 × h100-sxm) serve llama-3.1-8b at 20 requests/s within the demands for $7.50 an hour",
        "reasons": ["First token p95 210 ms of 500 ms allowed."],
        "options": [row],
        "plots": [
            plot(
                "Cost against speed",
                ("time an output token", "ms"),
                ("cost an hour", "usd/h"),
                [point(row, "tpot_ms", "cost_usd_per_hour")],
            )
        ],
        "conventions": "Latencies are 95th percentiles.",
        "what_if": {
            "kind": "serve",
            "rate": 20.0,
            "rows": [{"name": "1 × h100-sxm", "how": row["how"], "req_s": 8.2, "n_devices": 1, "usd_per_device_hour": 2.5}],
        },
    }
    if not found:
        plan |= {
            "found": False,
            "headline": "Nothing here serves it within the demands",
            "reasons": ["Nearest: 1 × l40s misses tpot_p95<10ms with 21 ms. Allow 21 ms, or name faster hardware."],
        }
    return plan


def fit_plan() -> dict[str, Any]:
    def row(rank: int, weights: str, size: float, context: int, basis: str) -> dict[str, Any]:
        return {
            "rank": rank,
            "id": f"rtx-4090:{weights}",
            "what": weights,
            "how": "KV cache in bf16",
            "device": "rtx-4090",
            "n_devices": 1,
            "layout": {"weights": weights},
            "on_front": rank < 3,
            "numbers": {
                "weight_bytes": number(size, "bytes", "measured", spread=0.0, why="Counted from the shape."),
                "context_tokens": number(context, "tokens", basis),
                "decode_tok_s": number(50 * rank, "tok/s", basis),
                "peak_memory_bytes": number(22 * GB, "bytes", basis),
            },
            "memory": memory(22 * GB, 24 * GB, weights=size, kv_cache=21 * GB - size, overhead=1 * GB),
            "time": None,
            "notes": [],
        }

    return train_plan() | {
        "kind": "fit",
        "headline": "llama-3.1-8b fits rtx-4090 with bf16 weights and 38,000 tokens of context",
        "reasons": [],
        "options": [row(1, "bf16", 16 * GB, 38_000, "interpolated"), row(2, "Q4_K_M", 5 * GB, 131_072, "speed-of-light")],
        "plots": [],
        "losers": [],
        "conventions": "",
        "prices": [],
        "what_if": {
            "kind": "fit",
            "capacity_bytes": 24 * GB,
            "context_tokens": 131_072,
            "rows": [
                {
                    "name": name,
                    "how": "",
                    "fixed_bytes": fixed * GB,
                    "sequence_bytes": 0.0,
                    "token_bytes": 131_072.0,
                    "room_bytes": room * GB,
                }
                for name, fixed, room in (("bf16", 17, 6), ("Q4_K_M", 6, 17))
            ],
        },
    }


PLANS = {"train": train_plan, "serve": serve_plan, "fit": fit_plan, "none": lambda: serve_plan(found=False)}
