"""The desk of a watch: alarms come in, are noted with what the rules wish for, and that is carried out, each thing once."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from trimtab.core.watching import Alarm
from trimtab.flows.parts.watch_actions import Means, carry_out, serves
from trimtab.watch.live import alarm_row
from trimtab.watch.rules import wishes
from trimtab.watch.state import Journal, Wanted
from trimtab.watch.watcher import Watcher, signal_called

Row = Mapping[str, Any]


def ignore(row: Row) -> None:
    """Tell nobody."""


@dataclass(kw_only=True)
class Desk:
    """on_alarm, on_action: told of each, as live.json has them. means may change while it works, as the site's file does."""

    watcher: Watcher
    journal: Journal
    means: Means
    on_alarm: Callable[[Row], None] = ignore
    on_action: Callable[[Row], None] = ignore

    def meet(self, alarm: Alarm) -> None:
        """Note an alarm that the watcher told, and do what it leads to; nothing if it was met before. Raises InputError, MissingError."""
        if alarm.id in self.journal.alarms:
            return
        told, signal = self.watcher.alarms[alarm.id], signal_called(alarm.signal)
        role, fired = serves(self.means, alarm), self.journal.fired()
        wished = wishes(self.means.rules, alarm, signal, serves=role, fired=fired, part_of=told.part_of)
        row = alarm_row(self.watcher, told)
        self.journal.note(alarm, row, wished)
        self.on_alarm(row)
        for wish in wished:
            self._do(alarm, Wanted.of(wish))

    def settle(self) -> None:
        """Carry out what a watch before this one wished for and did not end. Raises InputError, MissingError."""
        for alarm, wanted in self.journal.open():
            self._do(alarm, wanted, resumed=wanted.id in self.journal.begun)

    def _do(self, alarm: Alarm, wanted: Wanted, *, resumed: bool = False) -> None:
        self.journal.begin(wanted, time.time())
        self.on_action(self.journal.end(wanted, alarm, carry_out(self.means, alarm, wanted, resumed=resumed)))
