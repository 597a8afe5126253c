"""A decision as `optimize` writes it, small, for tests of what is shown."""

from typing import Any


def spread(p50: float) -> dict[str, Any]:
    return {"unit": "ms", "n": 24, "mean": p50, "p50": p50, "p95": p50 * 1.1, "p99": None, "min": p50 * 0.9, "max": p50 * 1.2}


def measurement(at_one: float, at_four: float) -> dict[str, Any]:
    points = [
        {"concurrency": level, "n_requests": 24, "failed": 0, "ttft_ms": spread(e2e / 4), "e2e_ms": spread(e2e)}
        for level, e2e in ((1, at_one), (4, at_four))
    ]
    return {"points": points, "load_s": 1.9, "peak_memory_bytes": 412_000_000, "noisy": False}


def candidate(engine: str, recipe: str, status: str, verdict: str | None, reason: str, **more: Any) -> dict[str, Any]:
    settings = more.pop("settings", {"threads": 2})
    base = {
        "id": f"{engine} {recipe}",
        "engine": engine,
        "recipe": recipe,
        "settings": settings,
        "status": status,
        "verdict": verdict,
        "reasons": [reason],
    }
    return base | {"measurement": None, "evidence": None, "estimate": None, "details": {}} | more


def gate(name: str, verdict: str, delta: float | None, **more: Any) -> dict[str, Any]:
    low, high = (None, None) if delta is None else (delta - 0.004, delta + 0.004)
    base = {
        "name": name,
        "kind": "non_inferiority",
        "suite": name,
        "unit": "nats/token",
        "margin": 0.02,
        "required": True,
        "verdict": verdict,
    }
    base |= {
        "informative": True,
        "reasons": [],
        "n": 240,
        "n_clusters": 60,
        "n_missing": 0,
        "delta": delta,
        "low": low,
        "high": high,
        "confidence": 0.983,
    }
    return base | {"positive_control": {"name": "q2_k", "caught": True}} | more


def ratio(value: float) -> dict[str, Any]:
    return {"e2e_ms_p50": {"ratio": value, "low": value - 0.06, "high": value + 0.06, "n_rounds": 8}, "ttft_ms_p50": None}


def decision(verdict: str = "pass") -> dict[str, Any]:
    baseline = candidate("llamacpp", "as-shipped", "timed", None, "the file as shipped", measurement=measurement(2410.0, 7015.0))
    chosen = candidate("openvino", "int8-asym", "certified", "pass", "fastest that is no worse", measurement=measurement(1126.0, 2270.0))
    chosen["evidence"] = {
        "screen": {
            "kl_nats": 0.005,
            "top1_agreement": 0.955,
            "delta_nats_per_token": -0.0031,
            "low": -0.005,
            "high": -0.001,
            "n_tokens": 8000,
        }
    }
    loser = candidate(
        "openvino",
        "as-shipped",
        "screened",
        None,
        "loses 0.19 nats per token against the reference",
        measurement=measurement(1105.0, 2250.0),
    )
    loser["details"] = {"speed_over_baseline": {"llamacpp as-shipped": {"1": ratio(2.18), "4": ratio(3.12)}}}
    loser["evidence"] = {
        "screen": {"kl_nats": 0.29, "top1_agreement": 0.70, "delta_nats_per_token": -0.1911, "low": -0.2, "high": -0.18, "n_tokens": 8000}
    }
    dropped = [candidate("llamacpp", name, "dropped", None, "cannot be faster than what is already measured") for name in ("f16", "q6-k")]
    return {
        "schema": "trimtab.decision/1",
        "kind": "optimize",
        "verdict": verdict,
        "reasons": ["All 3 required gates passed."],
        "reference": {"id": "llamacpp f16", "engine": "llamacpp", "recipe": "f16", "settings": {}},
        "baseline": {key: baseline[key] for key in ("id", "engine", "recipe", "settings")},
        "chosen": {key: chosen[key] for key in ("id", "engine", "recipe", "settings")},
        "speedup": {
            "over_baseline": {"1": ratio(2.14), "4": ratio(3.09)},
            "over_best_of_baseline_engine": {"id": "llamacpp q8-0", "1": ratio(1.52), "4": ratio(2.61)},
        },
        "gates": [
            gate("text", "pass", -0.0021),
            gate("fairness", "inconclusive", 0.001, reasons=["only 40 templates"]),
            gate("parity", "fail", None, positive_control=None),
        ],
        "candidates": [dropped[0], baseline, loser, chosen, dropped[1]],
    }
