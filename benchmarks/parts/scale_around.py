"""What a service needs beside its devices at a rate: gateways, log, weights, failures. Each number given with where it is from.

sure: `measured` here, `published` elsewhere, or an `assumption`; pairs are (low, high)
"""

import math
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from trimtab.record.chain import ChainLog
from trimtab.record.chain_check import check_log
from trimtab.serve.site import read_site

DAY_S = 86_400.0


@dataclass(frozen=True, kw_only=True)
class Given:
    """One number, or a pair of the lower and the upper end."""

    low: float
    high: float
    unit: str
    sure: str
    source: str


GIVEN: Mapping[str, Given] = {
    "gateway_request": Given(
        low=2 / 2277 - 2 / 5735,
        high=2 / 2277,
        unit="s of a core a request",
        sure="measured",
        source="docs/benchmarks.md, Gateway: 2,277 requests/s on two cores, client and server too; low: less what a pass-through takes",
    ),
    "gateway_token": Given(
        low=0.15e-3, high=0.17e-3, unit="s of a core a streamed token", sure="measured", source="docs/benchmarks.md, Serving"
    ),
    "gateway_busy": Given(low=0.6, high=0.6, unit="share of a core that a gateway may use", sure="assumption", source="room for bursts"),
    "audit_log": Given(
        low=6_100.0,
        high=56_000.0,
        unit="records/s of one log",
        sure="measured",
        source="docs/audit.md, 64 at once, disk under load and quick",
    ),
    "ledger": Given(
        low=1_666 / 60,
        high=3_392 / 60,
        unit="entries/s of one ledger",
        sure="measured",
        source="docs/ledger.md, 16 writers, PostgreSQL and SQLite",
    ),
    "state": Given(
        low=4.0,
        high=4.0,
        unit="checkpoints/s that a gateway writes to the shared state",
        sure="measured",
        source="docs/distributed-state.md; leases of keys come on top",
    ),
    "nic": Given(low=3.125e9, high=3.125e9, unit="bytes/s of a host's network", sure="assumption", source="25 Gb/s"),
    "failures": Given(
        low=16_384 * 54 * 24 / 419,
        high=16_384 * 54 * 24 / 419,
        unit="device hours between unexpected interruptions",
        sure="published",
        source="arXiv 2407.21783, 5: 419 interruptions of 16,384 H100 in 54 days of training",
    ),
}
PER_HOST = 8
HOST_CORES = 112
"""Of a host of eight H100: two processors of 56 cores; assumption."""
RECORDS = (
    {
        "event": "began",
        "request": "req_0123456789abcdef0123456789abcdef",
        "path": "/v1/chat/completions",
        "key": "k_01234567",
        "model": "chat",
        "version": "chat@stable",
        "input_digest": "0" * 64,
        "verdicts": [],
    },
    {
        "event": "ended",
        "request": "req_0123456789abcdef0123456789abcdef",
        "key": "k_01234567",
        "model": "chat",
        "version": "chat@stable",
        "status": 200,
        "error": "",
        "output_digest": "0" * 64,
        "prompt_tokens": 512,
        "completion_tokens": 128,
        "first_token_ms": 123.456,
        "total_ms": 1234.567,
        "verdicts": [],
    },
)
"""What the gateway notes of a request, about."""


def log_figures(n_requests: int) -> dict[str, float]:
    """Bytes of the audit log a request, and records a second that one core verifies."""
    bodies = [msgspec.json.encode({"at": "2026-11-27T04:02:13.123+00:00", **record}, order="deterministic") for record in RECORDS]
    with tempfile.TemporaryDirectory() as name:
        folder, home = Path(name) / "audit", Path(name) / "home"
        log = ChainLog.open(folder, home=home)
        for _ in range(n_requests // 50):
            log.commit(bodies * 50)
        log.close()
        checkpoint = log.checkpoint
        size = sum(path.stat().st_size for path in folder.glob("*.jsonl"))
        began_s = time.process_time()
        found = check_log(folder, checkpoint, trusted_key="", is_copy=False, is_in_use=False)
        took_s = time.process_time() - began_s
    return {"bytes_per_request": size / n_requests, "verified_records_s": found.n_records / took_s}


def site_figures(models: Sequence[int]) -> dict[str, float]:
    """Seconds of a core in which the gateway reads a site of so many models."""
    took = {}
    with tempfile.TemporaryDirectory() as name:
        for n in models:
            path = Path(name) / f"{n}.toml"
            rows = (f'[[models]]\nname = "m{i}"\nurl = "http://127.0.0.1:9000/v1"\n' for i in range(n))
            path.write_text("".join(rows), encoding="utf-8")
            began_s = time.process_time()
            read_site(path)
            took[str(n)] = time.process_time() - began_s
    return took


def around(
    rate: float, replicas: int, *, output_tokens: int, e2e_s: float, weights_bytes: float, log: Mapping[str, float]
) -> dict[str, Any]:
    """What stands around so many replicas of one device each at a rate of streamed requests."""
    request, token, busy = GIVEN["gateway_request"], GIVEN["gateway_token"], GIVEN["gateway_busy"].high
    cores = [rate * (one + output_tokens * each) for one, each in ((request.low, token.low), (request.high, token.high))]
    hosts = math.ceil(replicas / PER_HOST)
    gateways = math.ceil(cores[1] / busy)
    day_bytes = rate * DAY_S * log["bytes_per_request"]
    one_by_one_s = hosts * weights_bytes / GIVEN["nic"].high
    return {
        "hosts": hosts,
        "streams_open": rate * e2e_s,
        "gateway_cores": cores,
        "gateway_cores_unstreamed": [rate * request.low, rate * request.high],
        "gateways": gateways,
        "gateway_share_of_host_cores": cores[1] / (hosts * HOST_CORES),
        "audit_records_s_per_gateway": 2 * rate / gateways,
        "audit_bytes_day": day_bytes,
        "audit_verify_core_h_day": 2 * rate * DAY_S / log["verified_records_s"] / 3600,
        "limit_overshoot": gateways,
        "state_writes_s": gateways * GIVEN["state"].high,
        "weights_from_one_host_s": one_by_one_s,
        "weights_doubling_s": (math.ceil(math.log2(hosts + 1))) * weights_bytes / GIVEN["nic"].high,
        "failures_day": replicas * 24 / GIVEN["failures"].high,
    }
