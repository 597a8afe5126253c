"""Which replica of a deployment gets a request: the one that has its session, while that one has a place; else the least busy.

An engine that keeps the cache of earlier prompts computes less where the same conversation comes back to it. Sessions are spread by
rendezvous hashing [1]: each replica has a weight for each session, the heaviest is the session's own. A replica that comes or goes moves
only the sessions that are, or were, its own; and every gateway finds the same one without a word to the others.

Loaded by Ray alone, in whichever process holds a handle: `ray` is imported at its top.

[1] D. G. Thaler, C. V. Ravishankar: Using name-based mappings to increase hit rates. IEEE/ACM Trans. Networking 6(1), 1998.
"""

import hashlib

from ray.serve.request_router import PendingRequest, RequestRouter, RunningReplica


class SessionRouter(RequestRouter):  # type: ignore[misc]
    """See ray.serve.request_router.RequestRouter. Ranks are tried in their order; of one rank, the replica with the shortest queue."""

    async def choose_replicas(
        self, candidate_replicas: list[RunningReplica], pending_request: PendingRequest | None = None
    ) -> list[list[RunningReplica]]:
        if pending_request is None:
            return [candidate_replicas]
        pending_request.routing_context.should_backoff = True  # all replicas are among the ranks: if all are full, wait
        session = pending_request.metadata.session_id
        if not session:
            return [candidate_replicas]
        own = max(candidate_replicas, key=lambda replica: weight(session, replica.replica_id.unique_id))
        queue = self.replica_queue_len_cache.get(own.replica_id)
        if queue is not None and queue >= own.max_ongoing_requests:
            return [[replica for replica in candidate_replicas if replica is not own] or [own], [own]]
        return [[own], [replica for replica in candidate_replicas if replica is not own]]


def weight(session: str, replica: str) -> int:
    """The weight of a replica for a session, the same for ever."""
    return int.from_bytes(hashlib.blake2b(f"{session}\n{replica}".encode("utf-8", "surrogatepass"), digest_size=8).digest())
