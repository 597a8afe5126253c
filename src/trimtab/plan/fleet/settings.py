"""What is simulated: the engine's scheduler, kinds of replicas, when replicas come and go, and what goes wrong.

Nothing here is guessed from an engine's name: a scheduler that is set is a scheduler that can be checked.
"""

from dataclasses import dataclass, replace
from typing import Literal

from trimtab.core.errors import InputError
from trimtab.plan.fleet.steps import StepTable

Reserve = Literal["whole", "grow"]
Route = Literal["round-robin", "least-outstanding", "least-kv", "prefix", "power-of-two"]
ROUTES: tuple[Route, ...] = ("round-robin", "least-outstanding", "least-kv", "prefix", "power-of-two")
Signal = Literal["none", "outstanding", "queue", "utilisation", "wait"]
Retry = Literal["unstarted", "all", "none"]


@dataclass(frozen=True, kw_only=True)
class Batching:
    """How one engine composes its steps. Requests are taken in order of arrival.

    slots: sequences that run at once at most; batch_tokens: decoding sequences and prompt tokens of one step together at most
    chunked: prompts fill what the decoding sequences leave of a step, cut where it is full; else a step has only whole prompts (as many
        as fit, one at least) and decoding stands still in it
    kv_tokens: of all running sequences and kept prefixes together, 0 = no limit
    reserve: `whole`: a sequence starts when its prompt and whole answer fit, `grow`: when its prompt fits; if the cache is full later,
        the sequence that started last loses what it has and waits in front, to be computed again
    kv_spare: share of kv_tokens that must stay free when a sequence starts under `grow`
    prefix_cache: beginnings that prompts share are computed once and kept while there is room, the least recently used leaves first
    """

    slots: int = 64
    batch_tokens: int = 2048
    chunked: bool = True
    kv_tokens: int = 0
    reserve: Reserve = "grow"
    kv_spare: float = 0.01
    prefix_cache: bool = True


@dataclass(frozen=True, kw_only=True)
class Kind:
    """Replicas that are alike. Money and power are of a whole replica, however many devices it has.

    overhead_s: of each request outside the engine, before its first token (gateway, tokenizer, network)
    cold_s: from the decision to start one until it takes requests; min, max: how many there may be
    mtbf_s: mean time between failures, exponential, 0 = never; restart_s: until a failed one is back, 0 = cold_s
    spot_s: mean time until a spot instance is taken away, 0 = never; notice_s: warning before that
    """

    name: str
    steps: StepTable
    batching: Batching
    min_replicas: int = 1
    max_replicas: int = 1
    overhead_s: float = 0.0
    cold_s: float = 0.0
    usd_h: float = 0.0
    idle_w: float = 0.0
    busy_w: float = 0.0
    mtbf_s: float = 0.0
    restart_s: float = 0.0
    spot_s: float = 0.0
    notice_s: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Policy:
    """When replicas come and go. Without replicas the first request starts one at once, whatever the policy.

    signal: what is held at `target`: `none` = the number stays at max_replicas; `outstanding`: requests per replica, running and waiting;
        `queue`: waiting requests per replica; `utilisation`: share of slots in use; `wait`: seconds that the first in the queue has
        waited, one more replica whenever it is above target
    every_s: how often it is looked at; keep_s: replicas leave when for so long fewer would have done
    min_replicas: below the kinds' own minimum, e.g. 0; None = theirs
    """

    name: str
    signal: Signal = "none"
    target: float = 0.0
    every_s: float = 1.0
    keep_s: float = 300.0
    min_replicas: int | None = None


POLICIES = {
    policy.name: policy
    for policy in (
        Policy(name="fixed"),
        Policy(name="scale-to-zero", signal="outstanding", target=0.7, keep_s=300.0, min_replicas=0),
        Policy(name="outstanding", signal="outstanding", target=0.7),
        Policy(name="queue", signal="queue", target=1.0),
        Policy(name="utilisation", signal="utilisation", target=0.6, every_s=15.0),
        Policy(name="gateway", signal="wait", target=0.0, keep_s=600.0, min_replicas=0),
    )
}
"""`outstanding` targets are shares of a replica's slots; `gateway` is what `trimtab serve` does: target 0 = the replica's cold start."""
POLICY_KEYS = ("target", "every", "keep")


@dataclass(frozen=True, kw_only=True)
class Fleet:
    """All that is simulated but the trace.

    route: who gets a request; queue_at_gateway: requests wait before the replicas, each of which has at most `slots`; else every request
        goes to a replica at once and waits there
    queue_limit: waiting requests of the fleet at most, more are refused; 0 = no limit
    queue_wait_s: one that waited so long without starting is refused; 0 = no limit
    retry: what becomes of requests of a replica that died: those without a token are asked again, or all, or none; others fail
    g_co2_kwh: carbon per energy
    """

    kinds: tuple[Kind, ...]
    policy: Policy
    route: Route = "least-outstanding"
    queue_at_gateway: bool = False
    queue_limit: int = 0
    queue_wait_s: float = 0.0
    retry: Retry = "unstarted"
    g_co2_kwh: float = 0.0

    @property
    def is_random(self) -> bool:
        """Whether two seeds may differ on one trace."""
        return self.route == "power-of-two" or any(kind.mtbf_s or kind.spot_s for kind in self.kinds)


def policy_of(text: str) -> Policy:
    """`scale-to-zero`, or with other numbers `queue:target=4,keep=120,every=5`. Raises InputError."""
    name, _, rest = text.partition(":")
    if name not in POLICIES:
        raise InputError(f"There is no policy {name!r}; there are {', '.join(POLICIES)}.")
    policy = POLICIES[name]
    numbers = {"target": policy.target, "every": policy.every_s, "keep": policy.keep_s}
    for part in rest.split(",") if rest else ():
        key, _, value = part.partition("=")
        if key not in POLICY_KEYS:
            raise InputError(f"Policy {text!r}: {key!r} cannot be set; {', '.join(POLICY_KEYS)} can.")
        try:
            number = float(value)
        except ValueError:
            number = -1.0
        if not 0 <= number < float("inf") or (key == "every" and number == 0):
            raise InputError(f"Policy {text!r}: {key} must be a number of at least 0 (every: above 0), not {value!r}.")
        numbers[key] = number
    return replace(policy, name=text, target=numbers["target"], every_s=numbers["every"], keep_s=numbers["keep"])


def check(fleet: Fleet) -> None:
    """Raises InputError for a fleet that cannot be meant."""
    if not fleet.kinds:
        raise InputError("A fleet needs at least one kind of replica.")
    if fleet.route not in ROUTES:
        raise InputError(f"There is no route {fleet.route!r}; there are {', '.join(ROUTES)}.")
    if sum(kind.max_replicas for kind in fleet.kinds) < 1:
        raise InputError("A fleet of at most 0 replicas answers nothing; let --replicas end above 0.")
    for kind in fleet.kinds:
        if not 0 <= kind.min_replicas <= kind.max_replicas:
            raise InputError(f"{kind.name}: {kind.min_replicas} to {kind.max_replicas} replicas is no range.")
        rules = kind.batching
        if rules.slots < 1 or rules.batch_tokens < 1 or rules.kv_tokens < 0:
            raise InputError(f"{kind.name}: slots and batch tokens must be at least 1, and KV tokens at least 0.")
        if rules.batch_tokens < rules.slots:
            raise InputError(
                f"{kind.name}: {rules.batch_tokens} batch tokens are fewer than {rules.slots} slots need in one step; raise --batch-tokens."
            )
        if rules.slots > kind.steps.max_batch:
            raise InputError(f"{kind.name}: step times are known up to a batch of {kind.steps.max_batch}, not {rules.slots}.")
