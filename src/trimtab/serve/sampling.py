"""Which answers are kept to be scored again by the watch: the stable version's own words, while another version is on trial beside it."""

import hashlib
import json
import logging
import time
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trimtab.core.site import ServedModel
from trimtab.record.samples import Sample, keep_sample
from trimtab.serve.journey import Journey
from trimtab.serve.schema import Parsed

LONGEST_BYTES = 256 * 2**10
"""Answers that take more as they were sent are not kept."""
REMEMBERED = 4096
"""Conversations of which one answer was kept: later ones of the same would tell the same once more."""
SHAPING = (
    "tools",
    "response_format",
    "logit_bias",
    "frequency_penalty",
    "presence_penalty",
    "repetition_penalty",
    "guided_json",
    "guided_regex",
    "guided_choice",
    "guided_grammar",
    "grammar",
    "structured_outputs",
    "echo",
    "suffix",
    "chat_template",
    "chat_template_kwargs",
    "continue_final_message",
    "documents",
)
"""Fields under which an answer is not the model's own choice, or its prompt not what the template makes of the messages."""

log = logging.getLogger("trimtab.serve")


@dataclass(kw_only=True)
class Begun:
    """What will be kept of a request once its answer is known. sent: the answer's bytes so far, emptied for good once they are too many."""

    candidate: str
    cluster: str
    parsed: Parsed
    sent: list[bytes] = field(default_factory=list)
    n_bytes: int = 0

    def sends(self, data: bytes) -> None:
        """Note what goes out."""
        self.n_bytes += len(data)
        if self.n_bytes <= LONGEST_BYTES:
            self.sent.append(data)
        else:
            self.sent.clear()


class Sampler:
    """folder: where answers wait; pct: share of the stable version's answers that are kept while a canary or shadow is on trial.

    n_kept, n_full: answers that were kept, and that were not because enough waited
    """

    def __init__(self, folder: Path, pct: float) -> None:
        self.folder = folder
        self.pct = pct
        self.n_kept = self.n_full = 0
        self._seen: OrderedDict[str, None] = OrderedDict()

    def begin(self, model: ServedModel, parsed: Parsed, journey: Journey) -> Begun | None:
        """What to keep of a request, None for most. Only what two locks can be compared on is kept."""
        if self.pct <= 0.0 or not (candidate := on_trial(model)) or journey.version != model.rollout.stable or journey.adapter is not None:
            return None
        if not _drawn(journey.id, self.pct) or not _is_plain(parsed):
            return None
        cluster = _conversation(journey.key_id, parsed)
        if cluster in self._seen:
            return None
        self._seen[cluster] = None
        if len(self._seen) > REMEMBERED:
            self._seen.popitem(last=False)
        return Begun(candidate=candidate, cluster=cluster, parsed=parsed)

    def keep(self, begun: Begun, journey: Journey) -> None:
        """Keep an answer that ended well, as its model wrote it. Blocks for the disk; never raises for its sake."""
        if journey.error or journey.status != 200 or any(one.side == "out" and one.action != "allow" for one in journey.verdicts):
            return
        answer = answer_of(b"".join(begun.sent), is_stream=journey.is_stream)
        if not answer:
            return
        sample = Sample(
            request=journey.id,
            at_s=time.time(),
            model=journey.model,
            stable=journey.version,
            candidate=begun.candidate,
            cluster=begun.cluster,
            kind="chat" if begun.parsed.kind == "chat" else "completion",
            messages=begun.parsed.body.get("messages", ()),
            prompt=begun.parsed.body.get("prompt", ""),
            answer=answer,
        )
        try:
            if keep_sample(self.folder, sample):
                self.n_kept += 1
            else:
                self.n_full += 1
        except OSError as error:
            log.warning("an answer is not kept for the watch: %s", error)


def on_trial(model: ServedModel) -> str:
    """The version on trial beside the stable one where both are locks: the canary, else the shadow; empty if there is none."""
    rollout = model.rollout
    candidate = rollout.canary if rollout.canary_pct > 0 else rollout.shadow if rollout.shadow_pct > 0 else ""
    locked = {version.id for version in model.versions if version.lock}
    return candidate if {candidate, rollout.stable} <= locked else ""


def answer_of(sent: bytes, *, is_stream: bool) -> str:
    """Text of the one choice of an answer as it was sent; empty for anything but plain text that came to its end."""
    parts, finish = [], ""
    try:
        bodies = [json.loads(data) for data in _events(sent)] if is_stream else [json.loads(sent)]
        for body in bodies:
            for choice in body["choices"]:
                said = choice.get("delta") or choice.get("message") or {}
                if choice["index"] or said.get("tool_calls") or said.get("reasoning_content") or said.get("refusal"):
                    return ""
                parts.append(said.get("content") or choice.get("text") or "")
                finish = choice.get("finish_reason") or finish
    except (ValueError, KeyError, TypeError, AttributeError):
        return ""
    answer = "".join(parts)
    return answer if answer.strip() and finish in ("stop", "length") else ""


def _events(sent: bytes) -> list[bytes]:
    lines = [line[5:].strip() for line in sent.split(b"\n") if line.startswith(b"data:")]
    return [line for line in lines if line != b"[DONE]"]


def _is_plain(parsed: Parsed) -> bool:
    """Whether the answer will be one text of the model's own, after a prompt of text."""
    body = parsed.body
    if parsed.kind not in ("chat", "completion") or parsed.has_unread or any(body.get(name) for name in SHAPING):
        return False
    return (body.get("n") or 1) == 1 and not body.get("stop") and (parsed.kind == "chat" or isinstance(body.get("prompt"), str))


def _conversation(key: str, parsed: Parsed) -> str:
    """The same for all turns of one conversation: who asks, and the first thing that was asked."""
    first: Any = parsed.body.get("prompt", "")
    for message in parsed.body.get("messages", ()):
        if isinstance(message, Mapping) and message.get("role") == "user":
            first = message.get("content")
            break
    text = json.dumps([key, parsed.user, first], ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()[:16]


def _drawn(request: str, pct: float) -> bool:
    return int.from_bytes(hashlib.sha256(f"sample {request}".encode()).digest()[:8]) < pct / 100.0 * 2**64
