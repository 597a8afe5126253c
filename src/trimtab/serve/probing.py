"""Questions with known answers, asked of versions that are up and have nothing to do, on a schedule: is a version still the one it was?

What the stable version answered when it was first asked (greedily, so that the same weights say the same) is known from then on and kept;
a version's answers are right where they are the same, word for word. No user stands behind them: they pass no key, no limit, no guard, and
are in no count of requests; each comes to the watch as a Late of kind `probe` that names its version.
"""

import asyncio
import contextlib
import json
import logging
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from trimtab.core.errors import InfeasibleError
from trimtab.core.files import write_atomic
from trimtab.core.site import ServedModel, Site
from trimtab.core.watching import Late
from trimtab.serve.base import Call, Refusal
from trimtab.serve.dispatch import Dispatcher

SCHEMA = "trimtab.probes/1"
MOST_TOKENS = 12
ANSWER_LIMIT_S = 60.0
LOOK_S = 60.0
"""Where nothing is to be asked, a changed configuration is seen within this time."""
QUESTIONS = (
    "What is the capital of France? Answer with one word.",
    "What is 2 + 3? Answer with the number only.",
    "Name the day that comes after Monday.",
    "Which animal says meow?",
    "What colour is fresh snow?",
    "How many legs has a spider? Answer with the number only.",
    "Write the word 'boat' backwards.",
    "Which planet do people live on?",
    "What is the opposite of hot?",
    "Count from one to five.",
    "Which season comes before summer?",
    "Translate 'thank you' into French.",
)

log = logging.getLogger("trimtab.serve")


class Prober:
    """every_s: from one question to the next of each version; 0 = none. path: where known answers are kept

    tell: takes what came of each question. site: as it is now
    """

    def __init__(
        self, path: Path, dispatcher: Dispatcher, site: Callable[[], Site], tell: Callable[[Late], Any], *, every_s: float
    ) -> None:
        self._path, self._dispatcher, self._site, self._tell = path, dispatcher, site, tell
        self.every_s = every_s
        self.n_asked = 0
        self._known = _read_known(path)
        self._next: dict[str, int] = {}

    async def keep(self) -> None:
        """Ask until it is cancelled."""
        while True:
            await asyncio.sleep(self.every_s or LOOK_S)
            if self.every_s:
                await self.ask_all()

    async def ask_all(self) -> None:
        """One question to each version that has nothing to do. A version that is not up stays so."""
        for model in self._site().models:
            rollout = model.rollout
            trial = ((rollout.canary, rollout.canary_pct), (rollout.shadow, rollout.shadow_pct))
            for version in (rollout.stable, *(one for one, pct in trial if pct > 0)):
                if self._is_idle(version):
                    with contextlib.suppress(Refusal, InfeasibleError, TimeoutError):
                        async with asyncio.timeout(ANSWER_LIMIT_S):
                            await self._ask(model, version)

    def _is_idle(self, version: str) -> bool:
        facts = next((one for one in self._dispatcher.snapshot()["versions"] if one["version"] == version), None)
        if facts is None or facts["waiting"] or facts["leaving"]:
            return False
        up = [one for one in facts["replicas"] if one["status"] == "ready"]
        return bool(up) and not any(one["running"] for one in facts["replicas"])

    async def _ask(self, model: ServedModel, version: str) -> None:
        number = self._next.get(version, 0)
        self._next[version] = number + 1
        question = QUESTIONS[number % len(QUESTIONS)]
        request = f"probe-{version}-{time.time_ns():x}"
        answer = await self._answer(model, version, question, request)
        self.n_asked += 1
        known = self._known.setdefault(self._identity(model), {})
        if question not in known:
            if version != model.rollout.stable:
                return  # nobody knows the answer yet
            known[question] = answer
            await asyncio.to_thread(write_atomic, self._path, json.dumps({"schema": SCHEMA, "known": self._known}), mode=0o600)
        right = answer == known[question]
        self._tell(
            Late(
                request=request,
                at_s=time.time(),
                kind="probe",
                name="probe_right",
                value=float(right),
                model=model.name,
                version=version,
            )
        )

    async def _answer(self, model: ServedModel, version: str, question: str, request: str) -> str:
        """Raises Refusal, InfeasibleError."""
        body = {"model": model.name, "messages": [{"role": "user", "content": question}], "max_tokens": MOST_TOKENS, "temperature": 0}
        call = Call(id=request, kind="chat", body=body, stream=False)
        found: Mapping[str, Any] = {}
        async with (
            self._dispatcher.lease(version, wait_s=1.0) as replica,
            contextlib.aclosing(replica.answer(call)) as frames,
        ):
            async for frame in frames:
                found = json.loads(frame.body) if isinstance(frame.body, bytes) else frame.body
        return str(found["choices"][0]["message"].get("content") or "")

    def _identity(self, model: ServedModel) -> str:
        """What the known answers belong to: the stable version, by what it is where a lock says that."""
        stable = next(one for one in model.versions if one.id == model.rollout.stable)
        return stable.content_sha256 or f"{model.name} {stable.id}"


def _read_known(path: Path) -> dict[str, dict[str, str]]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        return {str(key): {str(q): str(a) for q, a in answers.items()} for key, answers in document["known"].items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        log.warning("%s cannot be read (%s); what is asked first is known anew", path, error)
        return {}
