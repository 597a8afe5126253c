"""What the pages work on: a ledger, folders of runs, what the watch left; and who is who at this moment."""

import threading
from dataclasses import dataclass, field
from pathlib import Path

from trimtab.core.errors import InputError
from trimtab.core.release import Entry, Person
from trimtab.decide.release import read_book
from trimtab.decide.release_book import Book
from trimtab.flows.parts.released import opened_ledger
from trimtab.record.people_keys import key_path


@dataclass(kw_only=True)
class Desk:
    """home: of keys, ledger and watch; ledger: its URL as the user gave it, empty = the default; runs: folders that hold runs

    port: that the page listens on
    """

    home: Path
    port: int
    ledger: str = ""
    runs: tuple[Path, ...] = ()
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _entries: tuple[Entry, ...] = ()
    _book: Book | None = None
    _ledger_id: str = ""

    @property
    def origins(self) -> tuple[str, ...]:
        """Under which the page may be asked: names of loopback only."""
        return tuple(f"http://{host}" for host in self.hosts)

    @property
    def hosts(self) -> tuple[str, ...]:
        """What the Host header may say."""
        return tuple(f"{host}:{self.port}" for host in ("127.0.0.1", "localhost", "[::1]"))

    @property
    def shown_ledger(self) -> str:
        """Where the ledger is, fit to be shown: without user and password."""
        from trimtab.record.ledger_place import place_of

        return place_of(self.ledger, self.home / "ledger" / "ledger.db").shown

    def entries(self) -> tuple[Entry, ...]:
        """All entries of the ledger; only new ones are read again. Raises InputError (cut, changed, empty), MissingError."""
        with self._lock:
            known = self._entries
            with opened_ledger(self.ledger, must_exist=True) as ledger:
                new = ledger.entries(since_seq=known[-1].seq) if known else ledger.entries()
                if new and known and new[0].prev != known[-1].hash:
                    known, new = (), ledger.entries()
                self._ledger_id = ledger.id
            if new or not known:
                self._entries = (*known, *new)
                self._book = None
            if not self._entries:
                raise InputError("The ledger is empty; begin with `trimtab release people add NAME`.")
            return self._entries

    def book(self) -> Book:
        """The ledger by its rules. Raises InputError, MissingError."""
        entries = self.entries()
        with self._lock:
            if self._book is None or self._entries is not entries:
                self._book = read_book(entries)
            return self._book

    def ledger_id(self) -> str:
        """The ledger's own name. Raises InputError, MissingError."""
        self.entries()
        return self._ledger_id

    def person(self, name: str) -> Person | None:
        """Somebody as the ledger knows them now. Raises InputError, MissingError."""
        return self.book().people.get(name)

    def has_key(self, person: Person) -> bool:
        """Whether acts in this person's name can be signed here."""
        return not person.public_key or key_path(self.home, person.name).exists()

    def live_files(self) -> list[Path]:
        """What the watch of each site tells, the one written last first."""
        found = [path for path in (self.home / "watch").glob("*/live.json") if path.is_file()]
        return sorted(found, key=lambda path: path.stat().st_mtime, reverse=True)
