"""Answers that the gateway keeps, scored under the stable version and the one on trial, and judged as they come.

Runs in a thread of its own with an event loop of its own, at the lowest priority, so that it takes what time nobody else wants. What was
judged is kept in <folder>/quality.json before the texts are removed: a kill loses no answer and counts none twice.
"""

import asyncio
import contextlib
import dataclasses
import json
import logging
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trimtab.core.deployment import Candidate
from trimtab.core.errors import InputError, TrimtabError
from trimtab.core.files import digest_of, write_atomic
from trimtab.core.policy import Policy
from trimtab.core.site import Site
from trimtab.core.watching import Alarm
from trimtab.flows.parts.evidence import noise_variants
from trimtab.flows.parts.live_scores import AnswerScore, LiveScorer, lowest_priority, paired
from trimtab.flows.parts.lock_checks import read_beside
from trimtab.flows.parts.locked import found_source, policy_of
from trimtab.flows.parts.opening import build_candidate, open_model, recipe_named
from trimtab.flows.parts.prepared import Prepared, prepare_lock
from trimtab.record.home import cache_dir
from trimtab.record.samples import Sample, remove_sample, waiting_samples
from trimtab.watch.quality import BIAS_NATS, CONTROL_ANSWERS, NOISE, NOISE_ANSWERS, Scored, Trial, Versions, commonest

SCHEMA = "trimtab.quality/1"
LOOK_S = 0.5
BATCH_LEAST, BATCH_MOST = 8, 24
BATCH_WAIT_S = 5.0
"""Fewer answers than BATCH_LEAST are scored once the oldest has waited for so long."""
IDLE_S = 60.0
"""The worker is ended when nothing was to be scored for so long."""
RETRY_S = 30.0
KEPT_TRIALS = 8

log = logging.getLogger("trimtab.watch")


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Who is compared. noise: the reference under other numerics."""

    reference: Candidate
    noise: Candidate
    candidate: Candidate
    trial: Trial


class LiveQuality:
    """folder: of the site's watch; read_site: the site as its file says now, with paths of locks relative to `site_folder`

    policy: name or file of the policy; empty = that of the stable version's lock
    """

    def __init__(self, folder: Path, read_site: Callable[[], Site], site_folder: Path, *, policy: str = "", offline: bool = False) -> None:
        self._folder, self._read_site, self._site_folder = folder, read_site, site_folder
        self._policy, self._offline = policy, offline
        self._pairs: dict[str, Pair | str] = {}
        self._states: dict[str, dict[str, Any]] = _read_states(folder / "quality.json")
        self._told = {key for key, state in self._states.items() if state.get("told")}
        self._summaries: dict[str, dict[str, Any]] = {}
        self._alarms: list[Alarm] = []
        self._lock = threading.Lock()
        self._ending = threading.Event()
        self._scorer = LiveScorer()
        self._retry_s = 0.0
        self.problem = ""
        self._thread = threading.Thread(target=self._run, name="quality", daemon=True)

    def start(self) -> None:
        """Begin to look."""
        self._thread.start()

    def close(self, limit_s: float = 20.0) -> None:
        """End the thread and its worker. Idempotent."""
        self._ending.set()
        if self._thread.is_alive():
            self._thread.join(limit_s)

    def take(self) -> list[Alarm]:
        """Alarms since the last call. After a restart those come again that nobody has said to have noted."""
        with self._lock:
            found, self._alarms = self._alarms, []
        return found

    def noted(self, alarm: Alarm) -> None:
        """An alarm is kept durably elsewhere."""
        with self._lock:
            self._told |= {key for key, state in self._states.items() if (state["alarm"] or {}).get("id") == alarm.id}
            self._save()

    def summary(self) -> list[dict[str, Any]]:
        """How each trial stands, as plain values."""
        with self._lock:
            return [dict(one) for one in self._summaries.values()]

    # The thread

    def _run(self) -> None:
        lowest_priority()
        asyncio.run(self._look())

    async def _look(self) -> None:
        work = asyncio.create_task(self._forever())
        while not self._ending.is_set() and not work.done():
            await asyncio.sleep(LOOK_S / 2)
        work.cancel()
        try:
            with contextlib.suppress(asyncio.CancelledError):
                await work
        except Exception:
            log.exception("quality is not watched any more")
            self.problem = "it failed in a way that nobody foresaw; the log says how"
        finally:
            await self._scorer.end()

    async def _forever(self) -> None:
        for state in self._states.values():
            if state["alarm"] is not None and not state.get("told"):
                await self._resume(state["versions"])
        last_s = time.monotonic()
        while True:
            if await self._one_batch():
                last_s = time.monotonic()
                continue
            if time.monotonic() - last_s > IDLE_S:
                await self._scorer.end()
            await asyncio.sleep(LOOK_S)

    async def _one_batch(self) -> bool:
        """Score and judge some answers of one trial; False if there are too few as yet."""
        now_s = time.time()
        waiting = waiting_samples(self._folder / "sample", now_s)
        if not waiting or time.monotonic() < self._retry_s:
            return False
        first = waiting[0]
        key = (first.model, first.stable, first.candidate)
        batch = [one for one in waiting if (one.model, one.stable, one.candidate) == key][:BATCH_MOST]
        if len(batch) < BATCH_LEAST and now_s - first.at_s < BATCH_WAIT_S:
            return False
        try:
            pair = await self._pair(*key)
        except TrimtabError as error:
            return self._later(f"the site's file cannot be read: {error}")
        if isinstance(pair, str):
            self._drop(batch)
            return True
        wanted = [one for one in batch if pair.trial.wants(one.request, one.cluster)]
        if wanted:
            try:
                scored = await self._scored(pair, wanted)
            except (TrimtabError, TimeoutError) as error:
                return self._later(f"answers of {first.stable} cannot be scored under the reference: {error or 'it took too long'}")
            self._judge(pair.trial, scored)
        self._drop(batch)
        return True

    def _later(self, problem: str) -> bool:
        """Nothing was done; it is tried again."""
        self._problem(problem)
        self._retry_s = time.monotonic() + RETRY_S
        return False

    def _judge(self, trial: Trial, scored: Sequence[Scored]) -> None:
        alarm = trial.take(scored, time.time())
        with self._lock:
            self._keep(trial)
            if alarm is not None:
                self._alarms.append(alarm)
        if alarm is not None:
            log.warning("%s fails on live answers: %s", trial.versions.candidate, "; ".join(trial.summary()["reasons"]))

    def _drop(self, samples: Sequence[Sample]) -> None:
        for one in samples:
            remove_sample(self._folder / "sample", one)

    async def _scored(self, pair: Pair, samples: Sequence[Sample]) -> list[Scored]:
        """Raises TrimtabError, TimeoutError for a reference that cannot be scored; a candidate that cannot is an outcome."""
        trial, n = pair.trial, pair.trial.n
        reference = await self._scorer.score(pair.reference, samples)
        if not trial.biased:
            trial.biased = commonest([one.ids for one in reference if not isinstance(one, str)])
        for_control = samples[: max(0, CONTROL_ANSWERS - n)]
        planted = await self._scorer.score(pair.reference, for_control, lowered=trial.biased, nats=BIAS_NATS) if for_control else []
        noise: list[AnswerScore | str] = []
        with contextlib.suppress(TrimtabError, TimeoutError):
            for_noise = samples[: max(0, NOISE_ANSWERS - n)]
            noise = await self._scorer.score(pair.noise, for_noise) if for_noise else []
        try:
            candidate = await self._scorer.score(pair.candidate, samples)
        except (TrimtabError, TimeoutError) as error:
            candidate = [f"{trial.versions.candidate}: {error or 'it took too long'}"] * len(samples)
        found = []
        for place, sample in enumerate(samples):
            if isinstance(reference[place], str):
                continue  # nothing can be said of this text, whoever is on trial
            others = [paired(reference[place], one[place]) if place < len(one) else "" for one in (candidate, planted, noise)]
            found.append(_scored_of(sample, reference[place], others))
        return found

    # Trials

    async def _pair(self, model: str, stable: str, candidate: str) -> Pair | str:
        """Who is compared, as the site's file says now; a sentence where nobody can be. Raises TrimtabError for the file."""
        site = await asyncio.to_thread(self._read_site)
        served = site.model_called(model)
        found = {one.id: one for one in served.versions} if served is not None else {}
        locks = [one for one in (found.get(stable), found.get(candidate)) if one is not None and one.lock]
        if len(locks) < 2:
            return f"{stable} and {candidate} are not both locks of {model} in the site's file."
        before, after = locks
        versions = Versions(model=model, stable=stable, candidate=candidate)
        key = digest_of([versions, before.content_sha256, after.content_sha256, site.quality_reference])
        if key not in self._pairs:
            try:
                self._pairs[key] = await self._made(versions, self._site_folder / before.lock, self._site_folder / after.lock, site)
            except TrimtabError as error:
                self._pairs[key] = str(error)
                self._problem(f"{candidate} is not judged by live answers: {error}")
        return self._pairs[key]

    async def _made(self, versions: Versions, stable: Path, candidate: Path, site: Site) -> Pair:
        before = await prepare_lock(stable, offline=self._offline)
        after = await prepare_lock(candidate, offline=self._offline)
        by_lock = site.quality_reference == "lock-reference"
        reference = await _lock_reference(before, stable, offline=self._offline) if by_lock else before.candidate
        policy = policy_of(self._policy, before.lock, read_beside(stable.parent, before.lock)[0])
        identity = digest_of([reference.deployment.digest, after.candidate.deployment.digest])
        words = f"{versions.stable}'s own reference, {reference.id}" if by_lock else f"{versions.stable}, which answered"
        noise = noise_variants(reference, None, os.cpu_count() or 1)[NOISE]
        trial = self._trial(dataclasses.replace(versions, identity=identity), policy, words)
        return Pair(reference=reference, noise=noise, candidate=after.candidate, trial=trial)

    def _trial(self, versions: Versions, policy: Policy, reference: str) -> Trial:
        state = self._states.get(versions.id)
        if state is not None:
            try:
                return Trial.from_state(state, policy)
            except (KeyError, TypeError, ValueError) as error:
                log.warning("%s is judged from the beginning again: %s", versions.candidate, error)
        return Trial(versions=versions, policy=policy, reference=reference)

    async def _resume(self, versions: Mapping[str, Any]) -> None:
        """Tell an alarm again that a kill may have come before."""
        try:
            pair: Pair | str = await self._pair(versions["model"], versions["stable"], versions["candidate"])
        except TrimtabError as error:
            pair = str(error)
        if not isinstance(pair, str) and pair.trial.alarm is not None:
            with self._lock:
                self._summaries[pair.trial.versions.id] = pair.trial.summary()
                self._alarms.append(pair.trial.alarm)

    def _problem(self, what: str) -> None:
        if what != self.problem:
            log.warning("%s", what)
        self.problem = what

    def _keep(self, trial: Trial) -> None:
        key = trial.versions.id
        self._states.pop(key, None)
        self._states[key] = {**trial.state(), "summary": trial.summary()}
        for old in list(self._states)[:-KEPT_TRIALS]:
            del self._states[old]
        self._summaries[key] = trial.summary()
        self._save()

    def _save(self) -> None:
        states = {key: {**state, "told": key in self._told} for key, state in self._states.items()}
        write_atomic(self._folder / "quality.json", json.dumps({"schema": SCHEMA, "trials": states}), mode=0o600)


def _scored_of(sample: Sample, reference: AnswerScore | str, others: Sequence[tuple[float, float] | str]) -> Scored:
    assert isinstance(reference, AnswerScore)
    candidate, planted, noise = (one[1] if isinstance(one, tuple) else None for one in others)
    error = others[0] if isinstance(others[0], str) else ""
    return Scored(
        request=sample.request,
        cluster=sample.cluster,
        at_s=sample.at_s,
        n_tokens=len(reference.ids),
        reference=reference.total / len(reference.ids),
        candidate=candidate,
        planted=planted,
        noise=noise,
        error=error,
    )


async def _lock_reference(prepared: Prepared, path: Path, *, offline: bool) -> Candidate:
    """What the stable version's lock was certified against, made again."""
    then = prepared.lock.reference
    if then is None:
        raise InputError(f'{path} does not say what it was certified against; set quality_reference = "stable".')
    caches = cache_dir()
    opened = open_model(found_source(then.source, path), cache_dir=caches, offline=offline)
    recipe = then.own_recipe or recipe_named(then.recipe, then.engine)
    made = await build_candidate(
        opened, then.engine, recipe, then.settings, products_dir=caches / "products", candidate_id=f"{then.engine} {recipe.name}"
    )
    return dataclasses.replace(made, id=f"{then.engine} {recipe.title}")


def _read_states(path: Path) -> dict[str, dict[str, Any]]:
    """Trials as they stood; nothing where there are none, or none that can be read."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        if document["schema"] != SCHEMA:
            raise ValueError(f"schema {document['schema']!r}")
        return {str(key): dict(state) for key, state in document["trials"].items() if {"versions", "alarm"} <= set(state)}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        log.warning("%s cannot be read (%s); versions on trial are judged from the beginning", path, error)
        return {}
