"""Evaluations and timings that need not be done twice.

One entry is one file, `<cache>/<kind>/<2 digits>/<key>`: a JSON line with the payload's sha256 and length, then the payload. It is
written whole or not at all and verified on every read; a damaged entry is a miss and is removed.

What the keys are over (two deployments with one key must be interchangeable):
evaluation  weights, template, engine build, numeric settings, reference, suite and scorer digests
timing      machine, workload, and the candidate's and the baseline's deployments (weights, build, all settings): stored only as the
            pair that was interleaved in one session
"""

import contextlib
import hashlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trimtab.core.errors import InputError, TrimtabError
from trimtab.core.evidence import Outcome
from trimtab.core.files import canonical_json, digest_of, write_atomic
from trimtab.record.disk import disk_error
from trimtab.record.outcomes import outcomes_from_bytes, outcomes_to_bytes

SCHEMA = "trimtab.cache/1"
_KEY = re.compile(r"[0-9a-f]{64}")
_KIND = re.compile(r"[a-z][a-z0-9_]{0,31}")


def evaluation_key(
    *,
    weights_sha256: str,
    template_sha256: str,
    build_sha256: str,
    numeric_settings: Mapping[str, Any],
    reference_sha256: str,
    suite_sha256: str,
    scorer_sha256: str,
) -> str:
    """Key of what a deployment did on a suite. Speed-only settings are left out: they may not change outputs."""
    parts = [weights_sha256, template_sha256, build_sha256, dict(numeric_settings), reference_sha256, suite_sha256, scorer_sha256]
    return digest_of(["evaluation", *parts])


def timing_key(*, machine_sha256: str, workload_sha256: str, candidate_sha256: str, baseline_sha256: str) -> str:
    """Key of a pair of deployments (`Deployment.digest`) timed against each other under a workload on a machine."""
    return digest_of(["timing", machine_sha256, workload_sha256, candidate_sha256, baseline_sha256])


@dataclass(frozen=True, kw_only=True)
class TimingPair:
    """Two deployments interleaved in one session: plain forms of Measurement, and of Ratio by concurrency and figure.

    session: names the sitting; timings of different sessions are never put side by side
    """

    session: str
    candidate: Mapping[str, Any]
    baseline: Mapping[str, Any]
    ratios: Mapping[str, Any]


class Cache:
    """Entries under one folder. Reading never raises for a bad entry; writing says why it could not store and goes on."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def get_outcomes(self, key: str) -> tuple[Outcome, ...] | None:
        """Outcomes of an evaluation, None on a miss."""
        data = self._get("evaluation", key)
        if data is None:
            return None
        try:
            return outcomes_from_bytes(data)[0]
        except InputError:
            self._remove("evaluation", key)
            return None

    def put_outcomes(self, key: str, outcomes: Sequence[Outcome], metadata: Mapping[str, str] | None = None) -> str:
        """Store outcomes; returns the empty string, or one sentence that says why they were not stored."""
        return self._put("evaluation", key, outcomes_to_bytes(outcomes, metadata))

    def get_timing(self, key: str) -> TimingPair | None:
        """A candidate-and-baseline pair, None on a miss."""
        value = self.get_json("timing", key)
        if not isinstance(value, dict) or set(value) != {"session", "candidate", "baseline", "ratios"}:
            return None
        return TimingPair(**value)

    def put_timing(self, key: str, pair: TimingPair) -> str:
        """Store a pair; returns the empty string, or one sentence that says why it was not stored."""
        return self.put_json("timing", key, pair)

    def get_json(self, kind: str, key: str) -> Any | None:
        """A JSON value stored under a kind of its own (e.g. `screen`), None on a miss."""
        data = self._get(kind, key)
        return None if data is None else json.loads(data)

    def put_json(self, kind: str, key: str, value: Any) -> str:
        """Store a JSON value or dataclass; returns the empty string, or one sentence that says why it was not stored."""
        return self._put(kind, key, canonical_json(value).encode())

    def drop(self, kind: str, key: str) -> None:
        """Forget an entry."""
        self._remove(kind, key)

    def _path(self, kind: str, key: str) -> Path:
        if not _KIND.fullmatch(kind) or not _KEY.fullmatch(key):
            raise ValueError(f"not a cache kind and key: {kind!r}, {key!r}")
        return self.root / kind / key[:2] / key

    def _get(self, kind: str, key: str) -> bytes | None:
        path = self._path(kind, key)
        try:
            raw = path.read_bytes()
        except OSError:
            return None
        payload = payload_of(kind, key, raw)
        if payload is None:
            self._remove(kind, key)
            return None
        with contextlib.suppress(OSError):  # a read-only cache still serves
            os.utime(path)  # prune goes by last use
        return payload

    def _put(self, kind: str, key: str, payload: bytes) -> str:
        path = self._path(kind, key)
        try:
            write_atomic(path, entry_of(kind, key, payload))
        except OSError as error:
            reason: TrimtabError = disk_error(path.parent, error, "write")
            return f"Not cached: {reason}"
        return ""

    def _remove(self, kind: str, key: str) -> None:
        with contextlib.suppress(OSError):  # a read-only cache keeps its bad entry; it stays a miss
            self._path(kind, key).unlink(missing_ok=True)


def entry_of(kind: str, key: str, payload: bytes) -> bytes:
    """The bytes of an entry, wherever it is kept."""
    return _head(kind, key, payload) + b"\n" + payload


def payload_of(kind: str, key: str, entry: bytes) -> bytes | None:
    """What an entry holds; None if it is damaged, or another one."""
    head, _, payload = entry.partition(b"\n")
    return payload if head == _head(kind, key, payload) else None


def _head(kind: str, key: str, payload: bytes) -> bytes:
    digest = hashlib.sha256(payload).hexdigest()
    return canonical_json({"schema": SCHEMA, "kind": kind, "key": key, "sha256": digest, "n_bytes": len(payload)}).encode()
