"""A release: one judged deployment with its evidence, what it is meant for, and what became of it in a ledger."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal, Self

from trimtab.core.decision import Verdict
from trimtab.core.site import GuardUse

Role = Literal["viewer", "operator", "approver", "auditor"]
EntryKind = Literal[
    "person",
    "run",
    "evaluation",
    "release",
    "approval",
    "promotion",
    "rollback",
    "retirement",
    "revocation",
    "incident",
    "exception",
    "impact",
    "action",
    "anchor",
]
ReleaseState = Literal["draft", "candidate", "approved", "live", "retired", "revoked"]


@dataclass(frozen=True, kw_only=True)
class Blob:
    """A file of evidence by its content. name: as in the run folder, e.g. `items/text-1a2b.parquet`."""

    name: str
    sha256: str
    size_bytes: int


@dataclass(frozen=True, kw_only=True)
class IntendedUse:
    """What a release is for, in the words of whom answers for it.

    owner: who answers for it; affected: groups of people it may touch
    answers: of the impact assessment, question id -> text; which are required is for the rules to say
    """

    owner: str = ""
    intended: tuple[str, ...] = ()
    prohibited: tuple[str, ...] = ()
    affected: tuple[str, ...] = ()
    answers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Licence:
    """One model of the base-model chain, the released one first. licence: SPDX id, empty if unknown; source: where that was read."""

    model: str
    licence: str
    source: str = ""


@dataclass(frozen=True, kw_only=True)
class Release:
    """What `NAME@NUMBER` stands for. Its evidence never changes; what happens to it is in the ledger.

    Until it serves for the first time, a later `release` entry of the same id may complete its use and licences. The last one counts, and
    approvals given before it do not.

    verdict, decision_sha256, policy, policy_sha256: of the decision it rests on (sha256 of the file decision.json)
    deployment_sha256, weights_sha256: what is served; lock_sha256: of the file deploy.toml
    evidence: every file of the run that `verify` needs, decision.json and deploy.toml among them
    made: UTC, ISO 8601; by: name of the person who proposed it
    """

    name: str
    number: int
    verdict: Verdict
    decision_sha256: str
    policy: str
    policy_sha256: str
    deployment_sha256: str
    weights_sha256: str
    lock_sha256: str
    evidence: tuple[Blob, ...]
    licences: tuple[Licence, ...]
    use: IntendedUse
    made: str
    by: str

    @property
    def id(self) -> str:
        """`support-chat@3`"""
        return f"{self.name}@{self.number}"

    @classmethod
    def of(cls, body: Mapping[str, Any]) -> Self:
        """From the body of a `release` entry; what else stands in it is passed over. Raises KeyError, TypeError."""
        use: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in body["use"].items()}
        read = {
            "evidence": tuple(Blob(**one) for one in body["evidence"]),
            "licences": tuple(Licence(**one) for one in body["licences"]),
            "use": IntendedUse(**use),
        }
        return cls(**{**{one.name: body[one.name] for one in fields(cls)}, **read})


@dataclass(frozen=True, kw_only=True)
class Person:
    """A named identity. public_key: Ed25519, 64 hex digits, with which entries in its name are signed; empty = it cannot sign."""

    name: str
    roles: tuple[Role, ...]
    public_key: str = ""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One line of the ledger as it was written.

    seq: from 1, without gaps; at: UTC, ISO 8601 with microseconds, never before that of the entry before it
    by: name of the person; about: release id, run id or name it is about
    body: JSON types; signature: of `by` over the entry, hex, empty if it was not signed
    prev, hash: sha256 hex digits that bind it to the entry before
    """

    seq: int
    kind: EntryKind
    at: str
    by: str
    about: str
    body: Mapping[str, Any]
    prev: str
    hash: str
    signature: str = ""


@dataclass(frozen=True, kw_only=True)
class ClusterWish:
    """What only whoever runs a cluster can say, for the formats that ask for it.

    replicas: (least, most) of them, None = as the format does without a word; redis: `host:port` of the Redis that keeps a Ray head's state
    gateway_class: of the Gateway API, as the cluster's administrators named it
    weights_uri: where the cluster finds the weights: `hf://`, `s3://`, `pvc://` or `oci://`
    """

    replicas: tuple[int, int] | None = None
    redis: str = ""
    gateway_class: str = ""
    weights_uri: str = ""


@dataclass(frozen=True, kw_only=True)
class Serving:
    """What it takes to serve a release, as measured, for manifests and images. One deployment spec, every format reads this.

    name: DNS label, e.g. `support-chat`; release_id: `support-chat@3`, empty for a lock that was not released
    model: name that clients ask for; engine: `llamacpp`, `openvino` ...; extras: of the package that the engine needs
    source: where the weights come from, e.g. `hf:org/name@rev`; weights_format: `gguf`, `openvino`, `safetensors` ...
    weights_bytes: on disk, as the engine opens them; memory_bytes: highest resident size measured, None if it was not
    cold_start_s: from no process to the first token, None if it was not measured
    cpus: that it was judged with; slots: requests that it answers at once; context_tokens: None = the engine's own default
    image: reference of a container image that holds it, empty if none was named; port: of the gateway
    guards: that the gateway must put before it; unguarded: prohibited uses that no guard stands behind
    lock: text of deploy.toml; cluster: what was said of the cluster that is to run it
    """

    name: str
    model: str
    engine: str
    source: str
    weights_format: str
    weights_sha256: str
    weights_bytes: int
    cpus: int
    slots: int
    lock: str
    release_id: str = ""
    extras: tuple[str, ...] = ()
    memory_bytes: int | None = None
    cold_start_s: float | None = None
    context_tokens: int | None = None
    image: str = ""
    port: int = 8080
    guards: tuple[GuardUse, ...] = ()
    unguarded: tuple[str, ...] = ()
    cluster: ClusterWish = ClusterWish()
