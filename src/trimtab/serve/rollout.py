"""Which version answers a request, and which gets a copy: decided by hashes, so that the same question has the same answer everywhere."""

import hashlib

from trimtab.core.site import Rollout


def pick(rollout: Rollout, request_id: str, user: str) -> tuple[str, str]:
    """Ids of the version that answers and of the one that gets a copy; the second is empty where none does.

    user: who asks; with `sticky = "user"` the same user gets the same version, and keeps the canary when its share grows. A request of
    nobody in particular is drawn by its own id. Which users try a canary first differs from canary to canary.
    """
    version = rollout.stable
    if rollout.canary and rollout.canary_pct > 0:
        who = user if rollout.sticky == "user" and user else request_id
        if _share(f"canary {rollout.canary} {who}") < rollout.canary_pct / 100:
            version = rollout.canary
    shadow = ""
    if rollout.shadow and rollout.shadow_pct > 0 and rollout.shadow != version:
        shadow = rollout.shadow if _share(f"shadow {rollout.shadow} {request_id}") < rollout.shadow_pct / 100 else ""
    return version, shadow


def _share(text: str) -> float:
    """A number in [0, 1) that belongs to a text for ever."""
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=7).digest()) / 2**56
