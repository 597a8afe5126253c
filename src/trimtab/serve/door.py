"""The door of the gateway: who asks, for what, whether they may, and whether guards let it pass."""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from trimtab.core.files import to_plain
from trimtab.core.guarding import Verdict
from trimtab.core.site import ServedModel, Site
from trimtab.guard.abuse import AbuseWatch
from trimtab.guard.pipeline import Guards
from trimtab.record.identities import Key
from trimtab.serve.access import Access
from trimtab.serve.base import Refusal
from trimtab.serve.journey import Journey
from trimtab.serve.notes import Notes
from trimtab.serve.quota import Quota, most_tokens
from trimtab.serve.schema import Parsed, parse

LONG_CHARS = 20_000
"""Longer requests are read by guards in a thread: others would wait for 0.1 s and more."""

log = logging.getLogger("trimtab.serve")


@dataclass(frozen=True, kw_only=True)
class Incoming:
    """A request as it came. headers: names in lower case; is_late: whether it has lasted for longer than it may"""

    id: str
    path: str
    headers: Mapping[str, str]
    raw: bytes
    is_late: Callable[[], bool] = lambda: False


@dataclass(frozen=True, kw_only=True)
class Admitted:
    """A request that may be answered, as guards let it pass. guards: those of its model when it came."""

    parsed: Parsed
    model: ServedModel
    guards: Guards


@dataclass(kw_only=True)
class Door:
    """access: whose key it is; quota: what it may still ask; abuse: patterns over many requests of a key."""

    access: Access
    quota: Quota
    notes: Notes
    abuse: AbuseWatch = field(default_factory=AbuseWatch)

    async def admit(self, site: Site, guards: Mapping[str, Guards], incoming: Incoming, journey: Journey) -> Admitted:
        """Let a request in, and note on its journey what becomes known. Raises Refusal (400, 401, 403, 404, 429)."""
        journey.key = key = self.access.check(incoming.headers, need_key=site.need_keys)
        if site.abuse == "throttle":
            self._refuse_throttled(key)
        parsed = parse(incoming.path, incoming.raw)
        model, adapter = site.asked_for(parsed.model)
        name = adapter.name if adapter is not None else model.name if model is not None else ""
        if model is None or not self.access.may_use(key, name):
            why = f"The model {parsed.model!r} does not exist or this key may not use it."
            raise Refusal(404, why, code="model_not_found", param="model")
        self.access.check_verb(key, parsed.kind)
        journey.model, journey.adapter = name, adapter
        journey.hold = await self.quota.admit(key, most_tokens(parsed, len(incoming.raw)) if key is not None else 0)
        admitted = Admitted(parsed=parsed, model=model, guards=guards[model.name])
        return await self._inspected(site, admitted, journey) if admitted.guards.reads_input else admitted

    async def review(self, case_id: str, state: Any) -> dict[str, Any]:
        """A person's decision about a case of abuse. Raises Refusal (400, 404)."""
        if state not in ("confirmed", "dismissed"):
            raise Refusal(400, f"`state` must be confirmed or dismissed, not {state!r}.", param="state")
        case = self.abuse.review(case_id, state)
        if case is None:
            raise Refusal(404, f"There is no case {case_id!r}.", code="case_not_found", param="id")
        found: dict[str, Any] = to_plain(case)
        await self.notes.settled(self.notes.begin({"event": "case", **found}))
        return found

    async def _inspected(self, site: Site, admitted: Admitted, journey: Journey) -> Admitted:
        """The request as guards let it pass. Raises Refusal."""
        parsed, guards = admitted.parsed, admitted.guards
        if parsed.has_unread:
            raise Refusal(400, "The request holds parts that the guards of this model cannot read; send text.", code="content_filter")
        texts = parsed.texts()
        is_long = guards.waits_on_input or sum(map(len, texts)) > LONG_CHARS
        inspected = await asyncio.to_thread(guards.inspect, texts) if is_long else guards.inspect(texts)
        journey.verdicts.extend(inspected.verdicts)
        if journey.key is not None and site.abuse != "off":
            self._watch(journey.key, texts, inspected.verdicts)
        if inspected.blocked is not None:
            rules = ", ".join(sorted({finding.rule for finding in inspected.blocked.findings})) or inspected.blocked.error
            raise Refusal(400, f"The request was blocked by the guard {inspected.blocked.guard} ({rules}).", code="content_filter")
        return Admitted(parsed=parsed.with_texts(inspected.texts), model=admitted.model, guards=guards)

    def _watch(self, key: Key, texts: Sequence[str], verdicts: Sequence[Verdict]) -> None:
        """Look at a request beside the earlier ones of its key; a suspicion becomes a case, noted in the log."""
        for case in self.abuse.observe(key.id, texts, verdicts, now_s=time.time()).cases:
            log.warning("case %s is opened: key %s, %s: %s", case.id, case.key_id, case.kind, case.reason)
            self.notes.begin({"event": "case", **to_plain(case)}, soon=True)

    def _refuse_throttled(self, key: Key | None) -> None:
        wait_s = self.abuse.throttled_s(key.id, now_s=time.time()) if key is not None else 0.0
        if wait_s > 0:
            why = "This key is slowed down because of what it asked for; a person will look at it."
            raise Refusal(429, why, code="abuse_suspected", retry_after_s=wait_s)
