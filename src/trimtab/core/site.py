"""What a site serves: models by name, the versions that may answer for each, and the limits that hold for all. Read from `site.toml`."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from trimtab.core.model import Adapter


@dataclass(frozen=True, kw_only=True)
class Version:
    """One way to answer for a model. Exactly one of `lock`, `command` and `url` is given.

    id: unique in the site, such as `chat@stable`
    lock: path of a deploy.toml: trimtab's own worker serves what it names
    command: an engine's own server (`vllm serve ...`), started and stopped by us; `{port}` stands for the port it must listen on
    url: a server that runs already, with /v1 at the end; it is never started or stopped
    upstream_model: the name that a command's or url's server knows the model by; empty = the model's own
    key_variable: the environment variable that holds that server's key; the key itself is kept nowhere
    memory_bytes: what one replica takes; None = of a lock, as measured; else it must be given where the site has a memory budget
    slots: requests that one replica works on at once; None = of a lock, its setting
    content_sha256: digest of the deployment that a lock names, and of the adapters beside it, so that another one under the same id is
        another version
    decision_sha256: of the decision that a lock rests on. The same deployment under another decision is the same version
    """

    id: str
    lock: str = ""
    command: tuple[str, ...] = ()
    url: str = ""
    upstream_model: str = ""
    key_variable: str = ""
    memory_bytes: int | None = None
    slots: int | None = None
    content_sha256: str = ""
    decision_sha256: str = field(default="", compare=False)


@dataclass(frozen=True, kw_only=True)
class GuardUse:
    """One guard on a route.

    name: of the guard; side: what it reads
    on_hit: what a finding leads to; `flag` lets it pass and notes it
    on_error: a guard that fails or is too slow blocks (`closed`) or is passed over with an alarm (`open`)
    options: of the guard itself
    """

    name: str
    side: Literal["in", "out", "both"] = "both"
    on_hit: Literal["flag", "redact", "block"] = "block"
    on_error: Literal["closed", "open"] = "closed"
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Rollout:
    """Who answers for a model.

    stable: id of the version that answers as a rule; canary: id of the one that answers `canary_pct` of requests; empty = none
    shadow: id of the one that gets copies of `shadow_pct` of requests, whose answers nobody sees; empty = none
    sticky: `user`: one user (the request's `user`, else its key) always gets the same version at the same percentages; `none`: by request
    """

    stable: str
    canary: str = ""
    canary_pct: float = 0.0
    shadow: str = ""
    shadow_pct: float = 0.0
    sticky: Literal["user", "none"] = "user"


@dataclass(frozen=True, kw_only=True)
class ServedModel:
    """A model as clients name it.

    aliases: other names that clients may use
    adapters: each a model name of its own for clients and keys, answered by this model's replicas; only where every version is a lock
    min_replicas, max_replicas: of each version that has traffic; 0 = it leaves when nobody asks
    idle_s: a replica above the minimum that had no request for so long is stopped
    target_queue: requests, in work and waiting, that a cluster scales for, a replica; 0 = as many as one works on at once
    queue_limit: requests that may wait; one more gets 429. queue_wait_s: the longest one waits, loading included; then it gets 503
    """

    name: str
    versions: tuple[Version, ...]
    rollout: Rollout
    aliases: tuple[str, ...] = ()
    adapters: tuple[Adapter, ...] = ()
    min_replicas: int = 0
    max_replicas: int = 1
    idle_s: float = 600.0
    target_queue: float = 0.0
    queue_limit: int = 128
    queue_wait_s: float = 120.0
    guards: tuple[GuardUse, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Listen:
    """Where the server listens. Beyond loopback it needs keys and `open_to_network`; TLS by files, both or neither.

    admin_port: of the separate admin surface, always on loopback; 0 = none
    """

    host: str = "127.0.0.1"
    port: int = 8080
    admin_port: int = 0
    open_to_network: bool = False
    tls_certificate: str = ""
    tls_key: str = ""


@dataclass(frozen=True, kw_only=True)
class Site:
    """All that one gateway serves.

    cluster: the Ray cluster that serves locks: `auto` = the one that this machine is a node of, or its address; empty = this machine alone
    memory_bytes: what all replicas together may take; None = no budget
    patience_s: so long at least a busy model keeps its memory though another one is asked for; then it ends what it has and makes room
    need_keys: requests without a valid key are refused
    audit: what happens while the audit log cannot be written: requests are refused, or served unlogged with an alarm; `off` = no log
    audit_sync_ms: an answer goes out once its record is written, and the disk has it within this time; 0 = it waits for the disk
    max_body_bytes: longer request bodies get 413; request_s: no request lasts longer
    abuse: what comes of patterns over many requests of a key, on models with guards: `watch` opens cases for a person, `throttle` also
        slows the key down, `off` does not look
    capture_pct: share of requests whose redacted text is kept for review; 0 = none
    watch: what is seen of each request, without its texts, is written for `trimtab watch`, and feedback is taken
    watch_pct: share of requests whose texts are looked at for it, as guards have redacted them; they are kept nowhere
    watch_sample_pct: share of a stable version's answers whose redacted text waits on disk to be scored again, for an hour at most, while
        another version is on trial beside it; 0 = none
    watch_probe_s: seconds from one known question to the next of each version that is up and idle, for the watch; 0 = none
    quality_reference: what a version on trial is held against: the `stable` version, or what the stable version's lock was certified
        against (`lock-reference`)
    """

    models: tuple[ServedModel, ...]
    listen: Listen = field(default_factory=Listen)
    cluster: str = ""
    memory_bytes: int | None = None
    patience_s: float = 10.0
    need_keys: bool = False
    audit: Literal["refuse", "alarm", "off"] = "refuse"
    audit_sync_ms: float = 0.0
    max_body_bytes: int = 4 * 2**20
    request_s: float = 600.0
    abuse: Literal["off", "watch", "throttle"] = "watch"
    capture_pct: float = 0.0
    watch: bool = False
    watch_pct: float = 100.0
    watch_sample_pct: float = 0.0
    watch_probe_s: float = 0.0
    quality_reference: Literal["stable", "lock-reference"] = "stable"

    def model_called(self, name: str) -> ServedModel | None:
        """The model of this name or alias."""
        return next((model for model in self.models if name == model.name or name in model.aliases), None)

    def asked_for(self, name: str) -> tuple[ServedModel | None, Adapter | None]:
        """What a client means by a name: a model, or a model under one of its adapters; (None, None) if there is neither."""
        model = self.model_called(name)
        if model is not None:
            return model, None
        return next(((model, one) for model in self.models for one in model.adapters if name == one.name), (None, None))
