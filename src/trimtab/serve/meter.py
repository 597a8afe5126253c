"""Counts and times of the gateway in Prometheus' form, and what each key has used.

Where a number means the same as vLLM's, it has vLLM's name, label and buckets (docs.vllm.ai, usage/metrics), so that dashboards made for
vLLM show it; buckets below vLLM's smallest are added. All else is `trimtab_*`. Times of vLLM's names are of requests that ended well.

Label values come from the configuration, the guards and the key file, never from what a client sent; and no label takes more than
MOST_VALUES values: whatever comes later is counted as `other`.
"""

from collections import Counter as Counts
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from trimtab.core.guarding import Verdict
from trimtab.serve.base import Usage

MOST_VALUES = 200
OTHER, NONE = "other", "none"

FIRST_TOKEN_S = (
    *(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75),
    *(1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0, 160.0, 640.0, 2560.0),
)
TOKEN_S = (
    *(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75),
    *(1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0),
)
REQUEST_S = (
    *(0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0),
    *(40.0, 50.0, 60.0, 120.0, 240.0, 480.0, 960.0, 1920.0, 7680.0),
)
TOKENS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000, 20000, 50000, 100000, 200000)
GUARD_S = (0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 1.0)


@dataclass(frozen=True, kw_only=True)
class Load:
    """What one version has to do at this moment.

    replicas: by state; memory_bytes: of all of them, None if unknown
    on_nodes: replicas in a cluster by (node, state); cluster_up: whether the cluster can be reached, None = there is none
    """

    model: str
    version: str
    running: int
    waiting: int
    replicas: Mapping[str, int] = field(default_factory=dict)
    memory_bytes: int | None = None
    on_nodes: Mapping[tuple[str, str], int] = field(default_factory=dict)
    cluster_up: bool | None = None


def loads_of(snapshot: Mapping[str, Any]) -> list[Load]:
    """What the dispatcher's snapshot says of each version."""
    return [
        Load(
            model=row["model"],
            version=row["version"],
            running=sum(replica["running"] for replica in row["replicas"]),
            waiting=row["waiting"],
            replicas=Counts(replica["status"] for replica in row["replicas"]),
            memory_bytes=sum(replica["memory_bytes"] for replica in row["replicas"]),
            on_nodes=Counts((replica["node"], replica["status"]) for replica in row["replicas"] if replica.get("node")),
            cluster_up=row["pool"]["cluster"] == "up" if "pool" in row else None,
        )
        for row in snapshot["versions"]
    ]


class Meter:
    """All numbers of one gateway. All methods are of one event loop, and quick.

    read_loads: what versions have to do now; read_joules: what the machine has used since its last call, None where it cannot tell;
        no such function where it never can. `render` calls both
    """

    def __init__(
        self,
        *,
        read_loads: Callable[[], Iterable[Load]] = tuple,
        read_joules: Callable[[], float | None] | None = None,
    ) -> None:
        self._registry = CollectorRegistry(auto_describe=False)
        self._read_loads = read_loads
        self._models, self._versions, self._keys = _Bounded(), _Bounded(), _Bounded()
        self._guard_names, self._nodes = _Bounded(), _Bounded()
        self._in_flight = Gauge("trimtab_requests_in_flight", "Requests that have come and have not ended.", registry=self._registry)
        self._audit_failures = Counter("trimtab_audit_failures", "Records that could not be written.", registry=self._registry)
        self._requests = self._counter("trimtab_requests", "Requests that ended, by HTTP status.", "model", "version", "status")
        self._seconds = self._histogram("trimtab_request_seconds", "Arrival to the end of the answer.", REQUEST_S, "model", "version")
        self._first = self._histogram(
            "trimtab_time_to_first_token_seconds", "Arrival to the first token.", FIRST_TOKEN_S, "model", "version"
        )
        self._verdicts = self._counter("trimtab_guard_verdicts", "What guards decided.", "guard", "side", "action")
        self._guard_errors = self._counter("trimtab_guard_errors", "Times that a guard could not judge.", "guard")
        self._guard_seconds = self._histogram("trimtab_guard_seconds", "Time of a guard on a text.", GUARD_S, "guard")
        self._shadows = self._counter("trimtab_shadow_requests", "Copies to a shadow version.", "model", "version", "status")
        self._shadow_tokens = self._counter("trimtab_shadow_tokens", "Tokens of copies.", "model", "version")
        self._shadow_seconds = self._histogram("trimtab_shadow_seconds", "Time of copies.", REQUEST_S, "model", "version")
        self._key_requests = self._counter("trimtab_key_requests", "Requests of a key, by HTTP status.", "key", "status")
        self._key_tokens = self._counter("trimtab_key_tokens", "Tokens of a key.", "key", "kind")
        self._loads = {
            name: Gauge(name, text, labels, registry=self._registry)
            for name, text, labels in (
                ("vllm:num_requests_running", "Requests that a replica works on.", ["model_name"]),
                ("vllm:num_requests_waiting", "Requests that wait for a replica.", ["model_name"]),
                ("trimtab_replicas", "Replicas by state.", ["model", "version", "state"]),
                ("trimtab_replica_memory_bytes", "Memory of a version's replicas.", ["model", "version"]),
                ("trimtab_node_replicas", "Replicas in a cluster, by node and state.", ["model", "version", "node", "state"]),
                ("trimtab_cluster_up", "1 while the cluster that serves a version can be reached.", ["model", "version"]),
            )
        }
        self._vllm = _Vllm(self._registry)
        self._energy = _Energy(self._registry, read_joules, self._keys)
        # Finding a child by its labels costs more than counting in it.
        self._of_version = cache(lambda model, version: (self._seconds.labels(model, version), self._first.labels(model, version)))
        self._of_request = cache(self._requests.labels)
        self._of_key = cache(self._key_requests.labels)
        self._of_key_tokens = cache(lambda key: (self._key_tokens.labels(key, "prompt"), self._key_tokens.labels(key, "completion")))
        self._of_verdict = cache(self._verdicts.labels)
        self._of_guard = cache(self._guard_seconds.labels)

    def request_began(self) -> None:
        """A request has come; `request_ended` must follow, once."""
        self._in_flight.inc()

    def request_ended(
        self,
        *,
        model: str,
        version: str,
        key_id: str,
        status: int,
        usage: Usage,
        seconds: float,
        first_token_s: float | None,
        verdicts: Sequence[Verdict] = (),
        is_stream: bool = True,
        finish_reason: str = "",
        queue_s: float | None = None,
    ) -> None:
        """A request has ended. Times are from its arrival.

        model, version: empty where it was refused before they were known; key_id: empty = none
        first_token_s: None if no token came, or nobody saw when. Of an answer in one piece (`is_stream` false) it says nothing
        queue_s: its wait for a replica; finish_reason: OpenAI's, of the first choice
        """
        self._in_flight.dec()
        key = self._keys(key_id or NONE)
        self._of_request(self._models(model or NONE), self._versions(version or NONE), str(status)).inc()
        self._of_key(key, str(status)).inc()
        prompt, completion = self._of_key_tokens(key)
        prompt.inc(usage.prompt)
        completion.inc(usage.completion)
        self._energy.used(key, usage.prompt + usage.completion)
        for verdict in verdicts:
            self._verdict(verdict)
        if not version:
            return
        first_s = first_token_s if is_stream else None
        vllm = self._vllm.of_model(self._models(model))
        vllm.tokens(usage)
        if status == 200:
            whole, first = self._of_version(self._models(model), self._versions(version))
            whole.observe(seconds)
            if first_s is not None:
                first.observe(first_s)
            vllm.request(usage, seconds, first_s, queue_s)
        self._vllm.finished(self._models(model), finish_reason or ("unknown" if status == 200 else "abort" if status == 499 else "error"))

    def shadow_ended(self, model: str, version: str, status: int, usage: Usage, seconds: float) -> None:
        """A copy of a request was answered by a shadow version."""
        names = (self._models(model), self._versions(version))
        self._shadows.labels(*names, str(status)).inc()
        self._shadow_tokens.labels(*names).inc(usage.prompt + usage.completion)
        self._shadow_seconds.labels(*names).observe(seconds)

    def shadow_skipped(self, model: str, version: str) -> None:
        """A copy was not sent, because enough were under way."""
        self._shadows.labels(self._models(model), self._versions(version), "skipped").inc()

    def audit_failed(self) -> None:
        """A record could not be written to the audit log."""
        self._audit_failures.inc()

    def render(self) -> bytes:
        """All numbers in Prometheus' text form 0.0.4."""
        self._take_loads()
        self._energy.take()
        return generate_latest(self._registry)

    def _verdict(self, verdict: Verdict) -> None:
        guard = self._guard_names(verdict.guard)
        self._of_verdict(guard, verdict.side, verdict.action).inc()
        self._of_guard(guard).observe(verdict.took_ms / 1e3)
        if verdict.error:
            self._guard_errors.labels(guard).inc()

    def _take_loads(self) -> None:
        for gauge in self._loads.values():
            gauge.clear()  # a version that left must not leave its last numbers
        for load in self._read_loads():
            model, version = self._models(load.model), self._versions(load.version)
            self._loads["vllm:num_requests_running"].labels(model).inc(load.running)
            self._loads["vllm:num_requests_waiting"].labels(model).inc(load.waiting)
            for state, n in load.replicas.items():
                self._loads["trimtab_replicas"].labels(model, version, state).set(n)
            if load.memory_bytes is not None:
                self._loads["trimtab_replica_memory_bytes"].labels(model, version).set(load.memory_bytes)
            for (node, state), n in load.on_nodes.items():
                self._loads["trimtab_node_replicas"].labels(model, version, self._nodes(node), state).set(n)
            if load.cluster_up is not None:
                self._loads["trimtab_cluster_up"].labels(model, version).set(load.cluster_up)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(name, text, labels, registry=self._registry)

    def _histogram(self, name: str, text: str, buckets: Sequence[float], *labels: str) -> Histogram:
        return Histogram(name, text, labels, buckets=buckets, registry=self._registry)


class _Bounded:
    """Passes the first MOST_VALUES different values, and `other` for all later ones."""

    def __init__(self) -> None:
        self._known: set[Hashable] = set()

    def __call__(self, value: str) -> str:
        if value in self._known:
            return value
        if len(self._known) >= MOST_VALUES:
            return OTHER
        self._known.add(value)
        return value


class _Vllm:
    """The families that vLLM has too."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def counter(name: str, text: str, *more: str) -> Counter:
            return Counter(f"vllm:{name}", text, ["model_name", *more], registry=registry)

        def histogram(name: str, text: str, buckets: Sequence[float]) -> Histogram:
            return Histogram(f"vllm:{name}", text, ["model_name"], buckets=buckets, registry=registry)

        self.prompt = counter("prompt_tokens", "Prompt tokens of requests.")
        self.generated = counter("generation_tokens", "Generated tokens.")
        self.success = counter("request_success", "Requests that a version was chosen for, by how they ended.", "finished_reason")
        self.prompt_sizes = histogram("request_prompt_tokens", "Prompt tokens of a request.", TOKENS)
        self.answer_sizes = histogram("request_generation_tokens", "Generated tokens of a request.", TOKENS)
        self.first = histogram("time_to_first_token_seconds", "Arrival to the first token.", FIRST_TOKEN_S)
        self.per_token = histogram("request_time_per_output_token_seconds", "Mean time between tokens of a request.", TOKEN_S)
        self.whole = histogram("e2e_request_latency_seconds", "Arrival to the end of the answer.", REQUEST_S)
        self.queue = histogram("request_queue_time_seconds", "Wait for a replica.", REQUEST_S)
        self.of_model = cache(lambda model: _OfModel(self, model))
        self._of_reason = cache(self.success.labels)
        self._reasons = _Bounded()

    def finished(self, model: str, reason: str) -> None:
        self._of_reason(model, self._reasons(reason)).inc()


class _OfModel:
    """vLLM's families of one model."""

    def __init__(self, families: _Vllm, model: str) -> None:
        self._prompt, self._generated = families.prompt.labels(model), families.generated.labels(model)
        self._prompt_size, self._answer_size = families.prompt_sizes.labels(model), families.answer_sizes.labels(model)
        self._first, self._per_token = families.first.labels(model), families.per_token.labels(model)
        self._whole, self._queue = families.whole.labels(model), families.queue.labels(model)

    def tokens(self, usage: Usage) -> None:
        self._prompt.inc(usage.prompt)
        self._generated.inc(usage.completion)

    def request(self, usage: Usage, seconds: float, first_s: float | None, queue_s: float | None) -> None:
        self._whole.observe(seconds)
        self._prompt_size.observe(usage.prompt)
        self._answer_size.observe(usage.completion)
        if first_s is not None:
            self._first.observe(first_s)
            if usage.completion > 1:
                self._per_token.observe((seconds - first_s) / (usage.completion - 1))
        if queue_s is not None:
            self._queue.observe(queue_s)


class _Energy:
    """Joules of the machine since the start, and by key: each stretch between two readings is shared out by the tokens that ended in it.

    A stretch in which no request ended is nobody's: key `none`. Where the machine has no counter there are no families, not zeros.
    """

    def __init__(self, registry: CollectorRegistry, read: Callable[[], float | None] | None, keys: _Bounded) -> None:
        self._read, self._keys = read, keys
        self._tokens: dict[str, int] = {}
        if read is not None:
            self._joules = Counter("trimtab_energy_joules", "Energy of the whole machine.", registry=registry)
            self._by_key = Counter("trimtab_key_energy_joules", "Energy by key, shared out by tokens.", ["key"], registry=registry)

    def used(self, key: str, n_tokens: int) -> None:
        if self._read is not None and n_tokens:
            self._tokens[key] = self._tokens.get(key, 0) + n_tokens

    def take(self) -> None:
        joules = self._read() if self._read is not None else None
        if joules is None:
            return
        self._joules.inc(joules)
        tokens, self._tokens = self._tokens or {self._keys(NONE): 1}, {}
        for key, n in tokens.items():
            self._by_key.labels(key).inc(joules * n / sum(tokens.values()))
