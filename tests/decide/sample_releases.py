"""Entries of a ledger made by hand: the shape that the real one writes, without database, chain and signatures."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from trimtab.core.files import digest_of, to_plain
from trimtab.core.release import Blob, Entry, IntendedUse, Licence, Release
from trimtab.decide.release_rules import Rules, load_rules

START = datetime(2026, 11, 1, 12, 0, tzinfo=UTC)
ANSWERS = dict.fromkeys(("benefit", "harm", "errors", "oversight", "redress"), "said")
USE = IntendedUse(owner="the desk", intended=("drafts",), prohibited=("legal advice",), affected=("customers",), answers=ANSWERS)
OPEN = Licence(model="m", licence="Apache-2.0", source="its card")
UNKNOWN = Licence(model="base/m", licence="")


def at(days: float) -> str:
    """A time of the ledger, counted from its beginning."""
    return (START + timedelta(days=days)).isoformat(timespec="microseconds")


def entry(seq: int, kind: Any, by: str, about: str, body: Mapping[str, Any], *, days: float = 0.0, signature: str = "") -> Entry:
    """One entry; `days` after the beginning."""
    return Entry(
        seq=seq, kind=kind, at=at(days), by=by, about=about, body=to_plain(body), prev="0" * 64, hash="0" * 64, signature=signature
    )


def release_body(
    number: int = 1,
    *,
    by: str = "alice",
    name: str = "chat",
    verdict: Any = "pass",
    gates: Mapping[str, str] | None = None,
    use: IntendedUse = USE,
    licences: Sequence[Licence] = (OPEN,),
    rules: Rules | None = None,
    **more: Any,
) -> dict[str, Any]:
    """The body of a `release` entry."""
    zeros = "0" * 64
    release = Release(
        name=name,
        number=number,
        verdict=verdict,
        decision_sha256=f"{number:064d}",
        policy="standard",
        policy_sha256=zeros,
        deployment_sha256=zeros,
        weights_sha256=zeros,
        lock_sha256=zeros,
        evidence=(Blob(name="decision.json", sha256=zeros, size_bytes=1),),
        licences=tuple(licences),
        use=use,
        made=at(0),
        by=by,
    )
    beside = {"gates": {"text": "pass"} if gates is None else dict(gates), "rules": rules or load_rules("standard"), "source": "m.gguf"}
    return {**to_plain(release), **to_plain({**beside, "revision": "", "trimtab": "0.1.0", **more})}


class Ledger:
    """Entries as they are written, one after the other, whether the rules allow them or not. days: the clock."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self.days = 0.0

    def write(self, kind: Any, by: str, about: str, body: Mapping[str, Any], *, after_days: float = 0.001, signature: str = "") -> Entry:
        self.days += after_days
        self.entries.append(entry(len(self.entries) + 1, kind, by, about, body, days=self.days, signature=signature))
        return self.entries[-1]

    def person(self, name: str, *roles: str, by: str = "alice", public_key: str = "", signature: str = "") -> Entry:
        return self.write("person", by, name, {"name": name, "roles": list(roles), "public_key": public_key}, signature=signature)

    def release(self, number: int = 1, *, by: str = "alice", **body: Any) -> Entry:
        made = release_body(number, by=by, **body)
        return self.write("release", by, f"{made['name']}@{number}", made)

    def approve(self, by: str, number: int = 1, *, sha256: str = "", name: str = "chat") -> Entry:
        about = f"{name}@{number}"
        last = [one for one in self.entries if one.kind == "release" and one.about == about]
        return self.write("approval", by, about, {"note": "", "release_sha256": sha256 or digest_of(last[-1].body) if last else ""})

    def waive(self, by: str, gate: str = "text", number: int = 1, *, days: float = 10.0) -> Entry:
        return self.write("exception", by, f"chat@{number}", {"gate": gate, "reason": "known and small", "expires": at(self.days + days)})

    def promote(self, by: str = "alice", number: int = 1, *, to: str = "production") -> Entry:
        return self.write("promotion", by, f"chat@{number}", {"to": to, "from": "", "note": ""})

    def rollback(self, by: str, number: int, *, alias: str = "production") -> Entry:
        about = f"chat@{number}"
        return self.write("rollback", by, about, {"to": about, "alias": alias, "from": "", "note": "slow"})


def people() -> Ledger:
    """alice with all roles, bob and dave approvers, carol operator, vic viewer."""
    ledger = Ledger()
    ledger.person("alice", "viewer", "operator", "approver", "auditor")
    ledger.person("bob", "approver")
    ledger.person("carol", "operator")
    ledger.person("dave", "approver")
    ledger.person("vic", "viewer")
    return ledger
