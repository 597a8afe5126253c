"""The cluster fills the cache, the flow decides: outcomes that are not known are computed elsewhere, under the keys that are looked up.

A verb runs as it does on one machine, with the same seeds and the same decisions; all that differs is where an outcome is computed. So a
run that lost its cluster goes on with the same command, also on one machine.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from trimtab.cluster.base import Place
from trimtab.cluster.units import Receipt, Unit
from trimtab.core.deployment import Candidate
from trimtab.core.errors import InfeasibleError
from trimtab.core.evidence import Outcome
from trimtab.core.files import digest_of, to_plain
from trimtab.engines.base import ScoreRequest, ScoreResult
from trimtab.evaluate.requests import PreparedSuite
from trimtab.evaluate.runner import OnProgress, shards
from trimtab.evaluate.stored import prepared_to_plain
from trimtab.flows.parts.cluster_units import QUESTIONS, candidate_to_plain, incomplete_key
from trimtab.flows.parts.outcome_keys import outcomes_key, prepared_digest
from trimtab.record.cache import Cache
from trimtab.record.run import RunDir

OVERHEAD_BYTES = {"transformers": 1_200_000_000}
USUAL_OVERHEAD_BYTES = 300_000_000
"""Of an engine's process beside its weights, until a first unit has measured it."""
MEMORY_MARGIN = 1.2


class Fan:
    """Gives work to a place, a shard at a time, and puts the shards' results together.

    place_url, part: of the shared results, as nodes open them; pool: hardware pool that the work must be done in, empty = anywhere
    """

    def __init__(self, place: Place, results: Cache, run: RunDir, *, place_url: str, part: str, pool: str = "") -> None:
        self.place = place
        self.pool = pool
        self._results, self._run = results, run
        self._where = {"place": place_url, "part": part}
        self._peak_bytes: dict[str, int] = {}

    async def outcomes(self, candidate: Candidate, prepared: PreparedSuite, *, what: str, on_progress: OnProgress) -> tuple[Outcome, ...]:
        """Outcomes of all items in their order, those that are not known computed at the place.

        Raises what kept a shard from being done: InfeasibleError, InputError, MissingError.
        """
        parts = {outcomes_key(candidate, part): part for part in shards(prepared)}
        known = {key: found for key in parts if (found := self._results.get_outcomes(key)) is not None}
        done = sum(parts[key].n_tokens for key in known)
        on_progress(done, prepared.n_tokens)
        units = [
            self._unit("score", f"{what}, part {number} of {len(parts)}", key, candidate, self._asked(prepared_digest(part), part))
            for number, (key, part) in enumerate(parts.items(), 1)
            if key not in known
        ]
        is_whole: dict[str, bool] = {}

        def came(unit: Unit, receipt: Receipt) -> None:
            nonlocal done
            is_whole[unit.key] = receipt.is_whole
            done += parts[unit.key].n_tokens
            on_progress(done, prepared.n_tokens)

        await self._do(candidate, units, came)
        for key, whole in is_whole.items():
            found = self._results.get_outcomes(key if whole else incomplete_key(key))
            if found is None:
                raise InfeasibleError(f"{what}: a result that was acknowledged is not in the shared results; run the same command again.")
            known[key] = found
        return tuple(outcome for key in parts for outcome in known[key])

    async def screens(
        self,
        candidates: Mapping[str, Candidate],
        requests: Sequence[ScoreRequest],
        results: Sequence[ScoreResult],
        *,
        vocab_size: int,
        on_done: Callable[[str, int, int], None],
    ) -> None:
        """Screens of all candidates, by their keys, into the results. One that fails leaves nothing, and is looked at where it is timed."""
        todo = {key: one for key, one in candidates.items() if self._results.get_json("screen", key) is None}
        asked = {"requests": to_plain(requests), "results": to_plain(results)}
        digest = digest_of(asked)
        if not todo:
            return
        self._results.put_json(QUESTIONS, digest, asked)
        n_done = 0

        def came(unit: Unit, receipt: Receipt) -> None:
            nonlocal n_done
            n_done += 1
            on_done(unit.title, n_done, len(todo))

        for one in todo.values():
            await self.place.check_build(one.engine, one.build.digest)
        units = [self._unit("screen", one.id, key, one, digest, vocab_size=vocab_size) for key, one in todo.items()]
        await self.place.do(units, lambda unit, receipt: self._noted(unit, receipt, came, raises=False))

    async def _do(self, candidate: Candidate, units: Sequence[Unit], came: Callable[[Unit, Receipt], None]) -> None:
        if not units:
            return
        await self.place.check_build(candidate.engine, candidate.build.digest)
        await self.place.do(units, lambda unit, receipt: self._noted(unit, receipt, came, raises=True))

    def _noted(self, unit: Unit, receipt: Receipt, came: Callable[[Unit, Receipt], None], *, raises: bool) -> None:
        """Write a receipt to the run's journal ahead of using it."""
        if raises:
            receipt.raise_fault()
        if not receipt.fault:
            self._run.finish_step(f"unit/{unit.what}/{unit.key}", receipt)
            weights = unit.spec["candidate"]["snapshot"]["files"][0]["sha256"]
            self._peak_bytes[weights] = max(self._peak_bytes.get(weights, 0), receipt.peak_bytes)
        came(unit, receipt)

    def _asked(self, digest: str, part: PreparedSuite) -> str:
        if self._results.get_json(QUESTIONS, digest) is None:
            self._results.put_json(QUESTIONS, digest, prepared_to_plain(part))
        return digest

    def _unit(self, what: str, title: str, key: str, candidate: Candidate, questions: str, **more: Any) -> Unit:
        spec = {**self._where, "candidate": candidate_to_plain(candidate), "questions": questions, **more}
        return Unit(what=what, title=title, key=key, spec=spec, memory_bytes=self._memory_bytes(candidate), pool=self.pool)

    def _memory_bytes(self, candidate: Candidate) -> int:
        """Measured on a node, else the weights and what the engine's process takes beside them."""
        measured = self._peak_bytes.get(candidate.snapshot.files[0].sha256, 0)
        predicted = candidate.snapshot.size_bytes + OVERHEAD_BYTES.get(candidate.engine, USUAL_OVERHEAD_BYTES)
        return int(MEMORY_MARGIN * (measured or predicted))
