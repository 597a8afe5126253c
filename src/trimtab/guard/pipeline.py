"""The guards of one route: what they find becomes flagged, redacted or blocked, in whole texts and in streams."""

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from trimtab.core.errors import InputError, TrimtabError
from trimtab.core.guarding import Action, Finding, Side, Verdict
from trimtab.core.site import GuardUse
from trimtab.guard.base import Guard, scaled_limit_s
from trimtab.guard.registry import TIME_LIMIT_S, guard_class, open_guard

CONTEXT_CHARS = 512  # of what a stream has sent already, kept for guards to look back at


@dataclass(frozen=True, kw_only=True)
class Placed:
    """A guard where it stands: on one side, with what its findings and failures lead to."""

    guard: Guard
    use: GuardUse
    side: Side


@dataclass(frozen=True, kw_only=True)
class Inspected:
    """texts: as they may go on, redactions made, in the order given; blocked: the verdict that stops the request, None if none does.

    verdicts: one for each guard and text with a finding or a failure, one for each guard with neither, in the order of the route; after a
    block no other guard is asked
    """

    texts: tuple[str, ...]
    verdicts: tuple[Verdict, ...]
    blocked: Verdict | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A stretch of what may go out. start, end: the characters of the answer that it stands for

    finding: what the text was put there for; None = those characters themselves. is_last: nothing of the answer goes out after it
    """

    text: str
    start: int
    end: int
    finding: Finding | None = None
    is_last: bool = False


class Guards:
    """All guards of a route. Built once, used by all its requests. Raises InputError or MissingError for a guard that cannot be used.

    Guards read in the order of the route, but those that ask something outside this process come last and read redacted texts: what must
    not leave does not reach them either.
    """

    def __init__(self, uses: Sequence[GuardUse]) -> None:
        placed = sorted((one for use in uses for one in _placed(use)), key=lambda one: one.guard.waits)
        self._in = tuple(one for one in placed if one.side == "in")
        self._out = tuple(one for one in placed if one.side == "out")
        self.reads_input = bool(self._in)
        self.reads_output = bool(self._out)
        self.waits_on_input = any(one.guard.waits for one in self._in)
        self.waits_on_output = any(one.guard.waits for one in self._out)

    def names(self, side: Side) -> tuple[str, ...]:
        """The guards of one side, in the order in which they are asked."""
        return tuple(one.guard.name for one in self._of(side))

    def inspect(self, texts: Sequence[str], side: Side = "in") -> Inspected:
        """Judge whole texts. Spans of a verdict are characters of the text as it was given; of a guard that waits, of the redacted one."""
        state = list(texts)
        verdicts: list[Verdict] = []
        redactions: list[list[Finding]] = [[] for _ in texts]
        local = [one for one in self._of(side) if not one.guard.waits]
        waiting = [one for one in self._of(side) if one.guard.waits]
        for group in (local, waiting):
            for one in group:
                found = [_judge(one, text, number) for number, text in enumerate(state)]
                verdicts += [verdict for verdict in found if verdict.action != "allow" or verdict.error] or [_quiet(one, found)]
                blocked = next((verdict for verdict in found if verdict.action == "block"), None)
                if blocked is not None:
                    return Inspected(texts=tuple(texts), verdicts=tuple(verdicts), blocked=blocked)
                for verdict in found:
                    if verdict.action == "redact":
                        redactions[verdict.text] += verdict.findings
            state = [redacted(text, spans) for text, spans in zip(state, redactions, strict=True)]
            redactions = [[] for _ in texts]
        return Inspected(texts=tuple(state), verdicts=tuple(verdicts), blocked=None)

    def stream(self) -> "OutputGuard":
        """A judge of one answer that comes in pieces."""
        return OutputGuard(self._out)

    def _of(self, side: Side) -> tuple[Placed, ...]:
        return self._in if side == "in" else self._out


class OutputGuard:
    """One answer in pieces: what comes out of `push` and `finish` together is what `inspect` would have made of the whole.

    Text is held back only from where a guard with reach says that a finding may still grow, and until every guard without reach has looked
    at it, which they do after every `stride_chars`. What went out before they find something is out, so their finding ends the answer: with
    `block` at once, with `redact` by putting the replacement in the place of all that has not gone out.
    """

    def __init__(self, placed: Sequence[Placed]) -> None:
        self._near = [one for one in placed if one.guard.reach_chars is not None]
        self._whole = [_Whole(one) for one in placed if one.guard.reach_chars is None and not one.guard.waits]
        self._waiting = [_Whole(one) for one in placed if one.guard.reach_chars is None and one.guard.waits]
        self._tail = ""  # context already sent, then what is held back
        self._sent = 0  # characters of the tail that were sent
        self._offset = 0  # where the tail begins in the answer
        self._pending: list[Part] = []  # not yet seen by guards that ask outside
        self._ended = False
        self._took_ms: dict[str, float] = {one.guard.name: 0.0 for one in placed}
        self._verdicts: list[Verdict] = []
        self.blocked: Verdict | None = None

    @property
    def verdicts(self) -> tuple[Verdict, ...]:
        """Those with findings or failures, then one `allow` for each guard that had neither. Spans are characters of the whole answer."""
        spoke = {verdict.guard for verdict in self._verdicts}
        quiet = (
            Verdict(guard=name, side="out", action="allow", took_ms=took_ms) for name, took_ms in self._took_ms.items() if name not in spoke
        )
        return (*self._verdicts, *quiet)

    def push(self, text: str) -> str:
        """What may go out after `text` came: nothing after a block."""
        return _text_of(self.push_parts(text))

    def finish(self) -> str:
        """What is left when the answer is complete."""
        return _text_of(self.finish_parts())

    def push_parts(self, text: str) -> list[Part]:
        """What `push` gives, for those who must know which characters went out and which were replaced."""
        return self._advance(text, last=False)

    def finish_parts(self) -> list[Part]:
        """What `finish` gives, in parts."""
        return self._advance("", last=True)

    def _advance(self, text: str, *, last: bool) -> list[Part]:
        if self._ended:
            return []
        self._tail += text
        cut = self._look(self._whole, text, last=last)
        seen = min((one.seen for one in self._whole), default=None)
        most = len(self._tail) if seen is None or last else max(self._sent, seen - self._offset)
        limit, findings = self._look_near(most, last=last) if self.blocked is None else (0, [])
        if self.blocked is None and cut is not None:
            at, self._ended = max(self._sent, min(limit, cut.start - self._offset)), True
            at = min((one.start for one in findings if one.start < at < one.end), default=at)
            out = self._redacted_to(at, [one for one in findings if one.end <= at])
            end = Part(text=cut.replacement, start=self._offset + at, end=self._offset + len(self._tail), finding=cut, is_last=True)
            return self._past_waiting([*out, end], last=True) if self._waiting else [*out, end]
        if self.blocked is not None:
            return []
        out = self._redacted_to(limit, findings)
        drop = max(0, limit - CONTEXT_CHARS)
        self._tail, self._sent, self._offset = self._tail[drop:], limit - drop, self._offset + drop
        self._ended = last
        return self._past_waiting(out, last=last) if self._waiting else out

    def _redacted_to(self, limit: int, findings: Iterable[Finding]) -> list[Part]:
        """What has not gone out of the tail up to `limit`. Spans are characters of the tail."""
        return _parts(self._tail[self._sent : limit], [_moved(one, -self._sent) for one in findings], self._offset + self._sent)

    def _past_waiting(self, out: list[Part], *, last: bool) -> list[Part]:
        """What guards that ask outside let through: they see what would go out."""
        before = len(self._waiting[0].text) - len(_text_of(self._pending))
        cut = self._look(self._waiting, _text_of(out), last=last)
        if self.blocked is not None:
            return []
        pending = [*self._pending, *out]
        if cut is not None:
            self._ended = True
            out, lost = _split(pending, max(0, cut.start - before))
            start, end = lost[0].start if lost else self._offset + self._sent, self._offset + len(self._tail)
            return [*out, Part(text=cut.replacement, start=start, end=end, finding=cut, is_last=True)]
        seen = max(0, min(one.seen for one in self._waiting) - before)
        out, self._pending = (pending, []) if last else _split(pending, seen)
        return out

    def _look(self, guards: Sequence["_Whole"], text: str, *, last: bool) -> Finding | None:
        """Ask guards that judge the whole. The first finding of one that ends the answer by redaction, None if there is none."""
        cuts: list[Finding] = []
        for one in guards:
            verdict = one.look(text, last=last)
            if verdict is not None:
                self._took_ms[verdict.guard] += verdict.took_ms
                if self._note(verdict):
                    return None
                cuts += verdict.findings if verdict.action == "redact" else ()
        return min(cuts, key=lambda finding: finding.start, default=None)

    def _look_near(self, most: int, *, last: bool) -> tuple[int, list[Finding]]:
        """Up to where the tail is final, at the most to `most`, and the redactions in what becomes so."""
        limit, found = most, []
        for one in list(self._near):
            verdict, open_from = _judge_near(one, self._tail, self._sent, last=last)
            self._took_ms[verdict.guard] += verdict.took_ms
            if verdict.error:
                self._near.remove(one)  # one alarm an answer, not one a piece
                if self._note(verdict):
                    return self._sent, []
                continue
            found.append(verdict)
            limit = min(limit, open_from)
        spans = [finding for verdict in found for finding in verdict.findings]
        # No finding is cut in two: the limit goes back until none straddles it.
        while (earliest := min((one.start for one in spans if one.start < limit < one.end), default=limit)) < limit:
            limit = earliest
        redactions: list[Finding] = []
        for verdict in found:
            final = tuple(finding for finding in verdict.findings if finding.end <= limit)
            if final and self._note(replace(verdict, findings=tuple(_moved(finding, self._offset) for finding in final))):
                return self._sent, []
            redactions += final if verdict.action == "redact" else ()
        return limit, redactions

    def _note(self, verdict: Verdict) -> bool:
        """Keep a verdict; whether it stops the answer."""
        if verdict.action != "allow" or verdict.error:
            self._verdicts.append(verdict)
        if verdict.action == "block":
            self.blocked, self._ended = verdict, True
        return verdict.action == "block"


class _Whole:
    """A guard without reach in one stream: all text so far, how much of it the guard has seen, and whether it has nothing more to say."""

    def __init__(self, placed: Placed) -> None:
        self.placed = placed
        self.text = ""
        self._seen = 0
        self._done = False

    @property
    def seen(self) -> int:
        """Characters that may go out for all that this guard says: those it saw, or all if it can only flag or has spoken."""
        return len(self.text) if self._done or self.placed.use.on_hit == "flag" else self._seen

    def look(self, text: str, *, last: bool) -> Verdict | None:
        """Its verdict once enough is new. The stride grows with the text, up to four times, for looking at all of it again is not free."""
        self.text += text
        least = self.placed.guard.stride_chars
        stride = min(4 * least, max(least, self._seen // 4)) if least > 1 else least
        new = len(self.text) - self._seen
        if self._done or not new or (new < stride and not last):
            return None
        self._seen = len(self.text)
        verdict = _judge(self.placed, self.text, 0)
        self._done = verdict.action == "flag" or bool(verdict.error)  # it has said so; once is enough
        return verdict


def redacted(text: str, findings: Iterable[Finding]) -> str:
    """The text with each finding's span replaced; overlapping ones become one span with the replacement of the longest."""
    return _text_of(_parts(text, findings))


def _parts(text: str, findings: Iterable[Finding], offset: int = 0) -> list[Part]:
    """What `redacted` gives, in parts. offset: where the text begins in the answer"""
    merged: list[tuple[int, int, Finding]] = []
    for one in sorted(findings, key=lambda finding: (finding.start, -finding.end)):
        if merged and one.start < merged[-1][1]:
            start, end, first = merged[-1]
            merged[-1] = (start, max(end, one.end), first if first.end - first.start >= one.end - one.start else one)
        else:
            merged.append((one.start, one.end, one))
    parts, at = [], 0
    for start, end, one in merged:
        if start > at:
            parts.append(Part(text=text[at:start], start=offset + at, end=offset + start))
        parts.append(Part(text=one.replacement, start=offset + start, end=offset + end, finding=one))
        at = end
    return [*parts, Part(text=text[at:], start=offset + at, end=offset + len(text))] if at < len(text) else parts


def _text_of(parts: Iterable[Part]) -> str:
    return "".join(part.text for part in parts)


def _split(parts: Sequence[Part], length: int) -> tuple[list[Part], list[Part]]:
    """The parts of the first `length` characters that would go out, and the others. A replacement is never cut: it is of the others."""
    before: list[Part] = []
    for place, part in enumerate(parts):
        if length < len(part.text):
            if length == 0 or part.finding is not None:
                return before, list(parts[place:])
            at = part.start + length
            head, rest = replace(part, text=part.text[:length], end=at), replace(part, text=part.text[length:], start=at)
            return [*before, head], [rest, *parts[place + 1 :]]
        before.append(part)
        length -= len(part.text)
    return before, []


def _placed(use: GuardUse) -> list[Placed]:
    """A use on each of its sides. `both` of a guard that reads one side is that side."""
    options = dict(use.options)
    limit_ms = options.pop("time_limit_ms", 1000.0 * TIME_LIMIT_S)
    if isinstance(limit_ms, bool) or not isinstance(limit_ms, (int, float)) or limit_ms <= 0:
        raise InputError(f"Option 'time_limit_ms' of guard {use.name!r} must be a number above 0, not {limit_ms!r}.")
    sides: tuple[Side, ...] = ("in", "out") if use.side == "both" else (use.side,)
    if use.side == "both":
        readable = guard_class(use.name).sides
        sides = tuple(side for side in sides if side in readable)
    return [Placed(guard=open_guard(use.name, options, side=side, time_limit_s=limit_ms / 1000.0), use=use, side=side) for side in sides]


def _judge(one: Placed, text: str, number: int) -> Verdict:
    """One guard on one whole text."""
    began = time.perf_counter()
    findings: tuple[Finding, ...] = ()
    error = ""
    try:
        findings = one.guard.check(text)
    except Exception as failure:
        error = _words_of(failure)
    return _verdict(one, findings, error, began, text, number)


def _judge_near(one: Placed, tail: str, sent: int, *, last: bool) -> tuple[Verdict, int]:
    """A guard with reach on the end of a stream, and from where it must be held back."""
    began = time.perf_counter()
    findings: tuple[Finding, ...] = ()
    error, open_from = "", len(tail)
    try:
        findings = one.guard.check(tail, sent)
        if not last:
            open_from = max(sent, min(len(tail), one.guard.open_from(tail, sent)))
    except Exception as failure:
        error = _words_of(failure)
    return _verdict(one, findings, error, began, tail, 0), open_from


def _verdict(one: Placed, findings: tuple[Finding, ...], error: str, began: float, text: str, number: int) -> Verdict:
    took_ms = 1000.0 * (time.perf_counter() - began)
    limit_ms = 1000.0 * scaled_limit_s(one.guard.time_limit_s, text)
    if not error and took_ms > limit_ms:
        error = f"it took {took_ms:.0f} ms, more than its {limit_ms:g} ms"
    action: Action = one.use.on_hit if findings else "allow"
    if error and one.use.on_error == "closed":
        action = "block"
    return Verdict(guard=one.guard.name, side=one.side, action=action, findings=findings, took_ms=took_ms, error=error, text=number)


def _quiet(one: Placed, found: Sequence[Verdict]) -> Verdict:
    return Verdict(guard=one.guard.name, side=one.side, action="allow", took_ms=sum(verdict.took_ms for verdict in found))


def _words_of(failure: Exception) -> str:
    """What went wrong, without the text: messages of foreign errors may repeat it."""
    if isinstance(failure, TimeoutError):
        return "it did not finish in its time limit"
    return str(failure) if isinstance(failure, TrimtabError) else type(failure).__name__


def _moved(finding: Finding, by: int) -> Finding:
    return replace(finding, start=finding.start + by, end=finding.end + by) if by else finding
