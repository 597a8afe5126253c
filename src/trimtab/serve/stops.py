"""Stop strings in a text that comes in pieces, wherever the borders of the pieces lie."""

from collections.abc import Collection


def held_back(text: str, wanted: Collection[str]) -> int:
    """Length of the longest end of `text` that may be the beginning of one of the wanted texts."""
    longest = max(map(len, wanted), default=0) - 1
    for length in range(min(longest, len(text)), 0, -1):
        end = text[-length:]
        if any(one.startswith(end) for one in wanted):
            return length
    return 0


class StopScan:
    """Lets text through up to the first stop string; what may be the beginning of one waits."""

    def __init__(self, stops: Collection[str]) -> None:
        self._stops = tuple(stops)
        self._waiting = ""
        self.has_stopped = False

    def push(self, text: str) -> str:
        """Take the next piece; returns what may go out now. After a stop string nothing does."""
        if self.has_stopped:
            return ""
        if not self._stops:
            return text
        self._waiting += text
        found = [place for stop in self._stops if (place := self._waiting.find(stop)) >= 0]
        if found:
            self.has_stopped = True
            passed, self._waiting = self._waiting[: min(found)], ""
            return passed
        keep = held_back(self._waiting, self._stops)
        passed = self._waiting[: len(self._waiting) - keep]
        self._waiting = self._waiting[len(self._waiting) - keep :]
        return passed

    def finish(self) -> str:
        """The rest, once no more text comes."""
        rest, self._waiting = self._waiting, ""
        return "" if self.has_stopped else rest
