"""Codes to sign in with: made and signed where a person's key lies, good for two minutes, one page, one ledger and one use."""

import base64
import json
import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trimtab.core.errors import InputError
from trimtab.core.files import canonical_json
from trimtab.core.release import Person
from trimtab.decide.release import read_book
from trimtab.flows.parts.released import opened_ledger, who
from trimtab.record.checkpoints import is_signature
from trimtab.record.home import state_dir
from trimtab.record.people_keys import signer_of

SCHEMA = "trimtab.sign-in/1"
LASTS_S = 120
_LONGEST = 2000
_AHEAD_S = 5  # so far may two clocks be apart


@dataclass(frozen=True, kw_only=True)
class Code:
    """person: name; ledger: id; port: of the page; at_s: when it was made, UTC, seconds since 1970; once: drawn at random"""

    person: str
    ledger: str
    port: int
    at_s: int
    once: str

    def signed_bytes(self) -> bytes:
        """What the signature is over. The schema keeps it apart from what else the key signs."""
        return canonical_json({"schema": SCHEMA, **vars(self)}).encode()


def make_code(home: Path, person: Person, *, ledger: str, port: int, now_s: float | None = None) -> str:
    """A code that signs `person` in. Raises InputError: no key in the ledger, or its private half is not here."""
    if not person.public_key:
        raise InputError(no_key(person.name))
    at_s = int(time.time() if now_s is None else now_s)
    code = Code(person=person.name, ledger=ledger, port=port, at_s=at_s, once=secrets.token_hex(16))
    signature = signer_of(home, person.name, person.public_key)(code.signed_bytes())
    return base64.urlsafe_b64encode(canonical_json({**vars(code), "signature": signature}).encode()).decode().rstrip("=")


def code_here(*, by: str, port: int, ledger: str) -> tuple[str, str]:
    """Who signs in and the code for it, by the key under TRIMTAB_HOME. by: empty = the only one there is.

    Raises InputError, MissingError.
    """
    with opened_ledger(ledger, must_exist=True) as opened:
        book, ledger_id = read_book(opened.entries()), opened.id
    name = who(book, by)
    if name not in book.people:
        raise InputError(f"There is nobody called {name!r} in the ledger; `trimtab release people list` shows who is.")
    return name, make_code(state_dir(), book.people[name], ledger=ledger_id, port=port)


def no_key(name: str) -> str:
    """The sentence for somebody who cannot sign."""
    return (
        f"{name} has no key in the ledger, so nobody could tell who signs in; "
        f"an approver adds one with `trimtab release people add {name} --public-key HEX`, made by `trimtab release people key {name}`."
    )


def read_code(text: str) -> tuple[Code, str]:
    """A code and its signature, not yet checked. Raises InputError."""
    wrong = InputError("That is no code to sign in with; make one with `trimtab ui sign-in --as NAME` and paste all of it.")
    text = "".join(text.split())
    if not text or len(text) > _LONGEST:
        raise wrong
    try:
        found: Any = json.loads(base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True))
        signature = found.pop("signature")
        code = Code(**found)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise wrong from None
    kinds = {"person": str, "ledger": str, "port": int, "at_s": int, "once": str}
    if not isinstance(signature, str) or any(type(getattr(code, name)) is not kind for name, kind in kinds.items()):
        raise wrong
    return code, signature


class Door:
    """Checks codes, each once. started_s: codes made before that are refused, since what was used before is not known."""

    def __init__(self, *, port: int, clock: Callable[[], float] = time.time) -> None:
        self._port = port
        self._clock = clock
        self._started_s = int(clock())
        self._lock = threading.Lock()
        self._used: dict[str, int] = {}

    def enter(self, code: Code, signature: str, person: Person | None, *, ledger: str) -> Person:
        """Who signs in. person: of the code's name, as the ledger has them. Raises InputError: why not."""
        if person is None:
            raise InputError(f"There is nobody called {code.person!r} in this ledger.")
        if not person.public_key:
            raise InputError(no_key(person.name))
        if not is_signature(person.public_key, signature, code.signed_bytes()):
            raise InputError(f"The code is not signed with the key that the ledger has for {person.name}.")
        if code.ledger != ledger:
            raise InputError("The code is for another ledger; make one with the --ledger that this page was started with.")
        if code.port != self._port:
            raise InputError(f"The code is for the page at port {code.port}; make one with --port {self._port}.")
        self._use(code)
        return person

    def _use(self, code: Code) -> None:
        now_s = self._clock()
        again = f"make a new one with `trimtab ui sign-in --as {code.person}`"
        if code.at_s > now_s + _AHEAD_S:
            raise InputError(f"The code was made in the future by this machine's clock; set the clocks right and {again}.")
        if now_s - code.at_s > LASTS_S:
            raise InputError(f"The code is older than {LASTS_S // 60} minutes; {again}.")
        if code.at_s < self._started_s:
            raise InputError(f"The code was made before this page was started; {again}.")
        with self._lock:
            self._used = {once: at_s for once, at_s in self._used.items() if now_s - at_s <= LASTS_S + _AHEAD_S}
            if code.once in self._used:
                raise InputError(f"The code was used already; {again}.")
            self._used[code.once] = code.at_s
