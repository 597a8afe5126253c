"""What a forger can do to a kept release: changes of bytes, rows and fields, plain ones and such whose digests and hashes are made anew.

The forger may write everything but has no key. A change is a function of a Case, which holds the copy that it may spoil.
"""

import copy
import json
import random
import shutil
import sqlite3
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from trimtab.core.evidence import Outcome
from trimtab.core.files import canonical_json, digest_of, sha256_file
from trimtab.core.release import Entry
from trimtab.record.deploy import deploy_toml, read_deploy_toml
from trimtab.record.ledger_entries import COLUMNS, BadEntry, read_row, row_of, sealed
from trimtab.record.outcomes import outcomes_from_bytes, outcomes_to_bytes
from trimtab.record.statements import read_signed, signed

Table = list[dict[str, Any]]


@dataclass(frozen=True, kw_only=True)
class Case:
    """home: TRIMTAB_HOME; folder: the release as exported, with its weights in `packed`; run: the run folder; weights: a file

    release, other: bodies of the entries of the release that is verified and of the one before it
    """

    home: Path
    folder: Path
    run: Path
    weights: Path
    release: Mapping[str, Any]
    other: Mapping[str, Any]
    rng: random.Random

    def stored(self, sha256: str) -> Path:
        """A file of the evidence store."""
        return self.home / "evidence" / sha256[:2] / sha256[2:]

    def named(self, body: Mapping[str, Any] | None = None) -> dict[str, str]:
        """Name -> sha256 of all evidence of a release."""
        return {one["name"]: one["sha256"] for one in (body or self.release)["evidence"]}

    def item_file(self) -> tuple[str, str]:
        """Name and sha256 of a random file of outcomes."""
        return self.rng.choice([pair for pair in self.named().items() if pair[0].endswith(".parquet")])


def spoil(path: Path, rng: random.Random) -> None:
    """A random change of bytes: a bit, a byte put in or taken out, a stretch overwritten, the end cut off."""
    data = bytearray(path.read_bytes())
    at = rng.randrange(len(data))
    match rng.randrange(5):
        case 0:
            data[at] ^= 1 << rng.randrange(8)
        case 1:
            data.insert(at, rng.randrange(256))
        case 2:
            del data[at]
        case 3:
            data[at : at + 8] = rng.randbytes(len(data[at : at + 8]))
        case _:
            del data[at:]
    write(path, bytes(data))


def write(path: Path, data: bytes | str) -> None:
    """Whatever its mode is."""
    path.chmod(0o644)
    path.write_bytes(data.encode() if isinstance(data, str) else data)


def respell(value: Any, rng: random.Random) -> Any:
    """Another value of the same kind."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + rng.choice((-1, 1))
    if isinstance(value, float):
        return value * (1 + rng.uniform(0.01, 0.5)) + 0.01
    if isinstance(value, str):
        at = rng.randrange(len(value) + 1)
        return f"{value[:at]}{rng.choice('abcdef0123456789')}{value[at + 1 :]}"
    return 0


def change_leaf(document: Any, rng: random.Random) -> None:
    """Change one random value somewhere in JSON types; a list or table that is empty gets one."""
    while True:
        keys = list(document) if isinstance(document, dict) else range(len(document))
        key = rng.choice(list(keys))
        if isinstance(document[key], (dict, list)) and document[key]:
            document = document[key]
            continue
        document[key] = respell(document[key], rng) if not isinstance(document[key], (dict, list)) else [0]
        return


def change_outcome(one: Outcome, rng: random.Random) -> Outcome:
    """Another value, length, answer, group or cluster of an item."""
    changes: list[dict[str, Any]] = [{"value": (one.value or 0.0) + rng.uniform(0.001, 1.0)}, {"n_tokens": one.n_tokens + 1}]
    changes += [{"correct": not one.correct}, {"group": f"{one.group}x"}, {"cluster": f"{one.cluster}x"}, {"value": None, "error": "x"}]
    return replace(one, **rng.choice(changes))


def change_row(data: bytes, rng: random.Random) -> bytes:
    """A valid file of outcomes with one row that says otherwise."""
    rows, notes = outcomes_from_bytes(data)
    at = rng.randrange(len(rows))
    return outcomes_to_bytes([*rows[:at], change_outcome(rows[at], rng), *rows[at + 1 :]], notes)


def move_rows(data: bytes, rng: random.Random) -> bytes:
    """A valid file with a row deleted, doubled, or two that changed places."""
    found, notes = outcomes_from_bytes(data)
    rows, (one, other) = list(found), rng.sample(range(len(found)), 2)
    match rng.randrange(3):
        case 0:
            del rows[one]
        case 1:
            rows.insert(other, rows[one])
        case _:
            rows[one], rows[other] = rows[other], rows[one]
    return outcomes_to_bytes(rows, notes)


def ledger_rows(home: Path) -> Table:
    """Every row, as it lies there."""
    with sqlite3.connect(home / "ledger" / "ledger.db") as connection:
        found = connection.execute(f"SELECT {', '.join(map(quoted, COLUMNS))} FROM trimtab_ledger ORDER BY seq").fetchall()
    connection.close()
    return [dict(zip(COLUMNS, row, strict=True)) for row in found]


def put_ledger_rows(home: Path, rows: Table) -> None:
    """Replace all rows; the triggers that forbid it are dropped and put back."""
    with sqlite3.connect(home / "ledger" / "ledger.db") as connection:
        triggers = connection.execute("SELECT name, sql FROM sqlite_master WHERE type = 'trigger'").fetchall()
        for name, _ in triggers:
            connection.execute(f"DROP TRIGGER {name}")
        connection.execute("DELETE FROM trimtab_ledger")
        places = ", ".join("?" * len(COLUMNS))
        for row in rows:
            connection.execute(f"INSERT INTO trimtab_ledger ({', '.join(map(quoted, COLUMNS))}) VALUES ({places})", list(row.values()))
        for _, sql in triggers:
            connection.execute(sql)
    connection.close()


def quoted(column: str) -> str:
    return f'"{column}"'


def chained(rows: Table) -> Table:
    """Numbers, hashes and the links between rows made anew, signatures left as they are: all that can be done without a key."""
    made: Table = []
    prev = "0" * 64
    for seq, row in enumerate(rows, 1):
        entry = sealed(replace(Entry(**{**row, "body": json.loads(row["body"])}), seq=seq, prev=prev))
        made.append(row_of(entry))
        prev = entry.hash
    return made


def restate(case: Case, names: Mapping[str, str]) -> None:
    """Have the ledger name other digests (old -> new), also of the release itself in its approvals, and chain it anew."""
    rows = ledger_rows(case.home)
    before, body = digest_of(case.release), canonical_json(case.release)
    for old, new in names.items():
        body = body.replace(old, new)
    told = {**names, before: digest_of(json.loads(body))}
    for row in rows:
        for old, new in told.items():
            row["body"] = row["body"].replace(old, new)
    put_ledger_rows(case.home, chained(rows))


def put_in_store(case: Case, data: bytes) -> str:
    """Keep bytes under their own digest; returns it."""
    scratch = case.home / "scratch"
    scratch.write_bytes(data)
    sha256 = sha256_file(scratch)
    case.stored(sha256).parent.mkdir(exist_ok=True)
    shutil.move(scratch, case.stored(sha256))
    return sha256


def evidence_byte(case: Case) -> None:
    spoil(case.stored(case.rng.choice(list(case.named().values()))), case.rng)


def evidence_removed(case: Case) -> None:
    case.stored(case.rng.choice(list(case.named().values()))).unlink()


def evidence_swapped(case: Case) -> None:
    others = case.named(case.other)
    name = case.rng.choice([name for name in case.named() if name in others])
    write(case.stored(case.named()[name]), case.stored(others[name]).read_bytes())


def items_row(case: Case) -> None:
    path = case.stored(case.item_file()[1])
    write(path, change_row(path.read_bytes(), case.rng))


def items_moved(case: Case) -> None:
    path = case.stored(case.item_file()[1])
    write(path, move_rows(path.read_bytes(), case.rng))


def items_row_anew(case: Case) -> None:
    _, sha256 = case.item_file()
    restate(case, {sha256: put_in_store(case, change_row(case.stored(sha256).read_bytes(), case.rng))})


def decision_field(case: Case) -> None:
    path = case.stored(case.release["decision_sha256"])
    document = json.loads(path.read_text())
    change_leaf(document, case.rng)
    write(path, json.dumps(document, indent=2, ensure_ascii=False) + "\n")


def decision_field_anew(case: Case) -> None:
    """The lock that rests on the decision is made anew too, and sealed."""
    before, lock_before = case.release["decision_sha256"], case.release["lock_sha256"]
    document = json.loads(case.stored(before).read_text())
    change_leaf(document, case.rng)
    lock = replace(read_deploy_toml(case.stored(lock_before)), decision_sha256=digest_of(document))
    after = put_in_store(case, (json.dumps(document, indent=2, ensure_ascii=False) + "\n").encode())
    restate(case, {before: after, lock_before: put_in_store(case, deploy_toml(lock).encode())})


def lock_field(case: Case) -> None:
    """A lock that says otherwise and is sealed anew, in the place of the one before."""
    path = case.stored(case.release["lock_sha256"])
    lock = read_deploy_toml(path)
    change = case.rng.choice(("verdict", "source", "weights_sha256", "policy", "suite_sha256", "made", "machine", "known_answers"))
    value: Any = getattr(lock, change)
    if change == "known_answers":
        value = copy.deepcopy({suite: dict(answers) for suite, answers in value.items()})
        change_leaf(value, case.rng)
    else:
        value = "fail" if change == "verdict" else "0" * 64 if change.endswith("sha256") else f"{value}x"
    write(path, deploy_toml(replace(lock, **{change: value})))


def card_byte(case: Case) -> None:
    spoil(case.stored(case.rng.choice(case.release["cards"])["sha256"]), case.rng)


def card_swapped(case: Case) -> None:
    at = case.rng.randrange(len(case.release["cards"]))
    write(case.stored(case.release["cards"][at]["sha256"]), case.stored(case.other["cards"][at]["sha256"]).read_bytes())


def card_anew(case: Case) -> None:
    """Words of a card changed, its digest and the ledger made anew."""
    sha256 = case.rng.choice(case.release["cards"])["sha256"]
    words = case.stored(sha256).read_text().split(" ")
    at = case.rng.randrange(len(words))
    words[at] = f"not {words[at]}"
    restate(case, {sha256: put_in_store(case, " ".join(words).encode())})


def weights_byte(case: Case) -> None:
    spoil(case.weights, case.rng)


def statement_byte(case: Case) -> None:
    spoil(case.stored(case.release["statement_sha256"]), case.rng)


def statement_swapped(case: Case) -> None:
    restate(case, {case.release["statement_sha256"]: case.other["statement_sha256"]})


def statement_by_stranger(case: Case) -> None:
    """Another statement, signed with the forger's own key, and the ledger made anew."""
    sha256 = case.release["statement_sha256"]
    statement = json.loads(canonical_json(read_signed(case.stored(sha256).read_bytes(), []).statement))
    if case.rng.random() < 0.5:
        change_leaf(statement["predicate"], case.rng)
    key = Ed25519PrivateKey.generate()
    raw = signed(statement, {key.public_key().public_bytes_raw().hex(): lambda data: key.sign(data).hex()})
    restate(case, {sha256: put_in_store(case, raw)})


def ledger_byte(case: Case) -> None:
    spoil(case.home / "ledger" / "ledger.db", case.rng)


def change_ledger_row(case: Case) -> Table:
    rows = ledger_rows(case.home)
    row = case.rng.choice(rows)
    column = case.rng.choice([name for name in COLUMNS if name != "seq"])
    if column == "body":
        body = json.loads(row["body"])
        change_leaf(body, case.rng)
        row["body"] = canonical_json(body)
    else:
        row[column] = respell(row[column], case.rng)
    return rows


def ledger_value(case: Case) -> None:
    put_ledger_rows(case.home, change_ledger_row(case))


def ledger_value_anew(case: Case) -> None:
    put_ledger_rows(case.home, chained(change_ledger_row(case)))


def ledger_deleted(case: Case) -> None:
    rows = ledger_rows(case.home)
    del rows[case.rng.randrange(len(rows))]
    put_ledger_rows(case.home, rows)


def ledger_deleted_anew(case: Case) -> None:
    rows = ledger_rows(case.home)
    del rows[case.rng.randrange(len(rows))]
    put_ledger_rows(case.home, chained(rows))


def ledger_order(case: Case) -> None:
    rows = ledger_rows(case.home)
    one, other = case.rng.sample(range(len(rows)), 2)
    rows[one], rows[other] = rows[other], rows[one]
    if case.rng.random() < 0.5:
        rows = chained(rows)
    else:
        rows[one]["seq"], rows[other]["seq"] = rows[other]["seq"], rows[one]["seq"]
    put_ledger_rows(case.home, rows)


def ledger_cut(case: Case) -> None:
    rows = ledger_rows(case.home)
    put_ledger_rows(case.home, rows[: case.rng.randrange(len(rows))])


def ledger_inserted(case: Case) -> None:
    """An approval that nobody gave, in the name of somebody, somewhere after the release."""
    rows = ledger_rows(case.home)
    first = next(at for at, row in enumerate(rows) if row["kind"] == "release" and json.loads(row["body"]) == dict(case.release))
    at = case.rng.randrange(first + 1, len(rows) + 1)
    forged = dict(next(row for row in rows if row["kind"] == "approval"))
    who = case.rng.choice(("bob", "carol", "mallory"))
    name = f"{case.release['name']}@{case.release['number']}"
    body = canonical_json({"note": "fine", "release_sha256": digest_of(case.release)})
    forged |= {"by": who, "about": name, "body": body, "at": rows[at - 1]["at"], "signature": case.rng.choice(("", forged["signature"]))}
    put_ledger_rows(case.home, chained([*rows[:at], forged, *rows[at:]]))


def folder_byte(case: Case) -> None:
    files = sorted(path for path in case.folder.rglob("*") if path.is_file())
    spoil(case.rng.choice(files), case.rng)


def folder_items_row(case: Case) -> None:
    path = case.rng.choice(sorted((case.folder / "items").glob("*.parquet")))
    write(path, change_row(path.read_bytes(), case.rng))


def folder_field_anew(case: Case) -> None:
    """One value of what the folder tells of the ledger, the entry's own hash made anew."""
    path = case.folder / "release.json"
    document = json.loads(path.read_text())
    entry = case.rng.choice(document["entries"])
    change_leaf(entry["body"], case.rng)
    try:
        row = row_of(sealed(Entry(**entry)))
        read_row(tuple(row.values()))
        entry["hash"] = row["hash"]
    except BadEntry:
        pass
    write(path, canonical_json(document) + "\n")


def folder_items_anew(case: Case) -> None:
    """A row of the items, and every digest in the folder that depends on it."""
    path = case.rng.choice(sorted((case.folder / "items").glob("*.parquet")))
    before = sha256_file(path)
    write(path, change_row(path.read_bytes(), case.rng))
    told = case.folder / "release.json"
    document = json.loads(told.read_text().replace(before, sha256_file(path)))
    document["entries"] = [{**one, "hash": sealed(Entry(**one)).hash} for one in document["entries"]]
    write(told, canonical_json(document) + "\n")


def run_value(case: Case) -> None:
    """One value of an item, in a run that no digest or signature protects: statistics alone can tell."""
    path = case.rng.choice(sorted((case.run / "items").glob("*.parquet")))
    rows, notes = outcomes_from_bytes(path.read_bytes())
    at = case.rng.randrange(len(rows))
    moved = replace(rows[at], value=(rows[at].value or 0.0) + case.rng.choice((-1, 1)) * case.rng.uniform(0.001, 1.0))
    write(path, outcomes_to_bytes([*rows[:at], moved, *rows[at + 1 :]], notes))


CHANGES: Mapping[str, Callable[[Case], None]] = {
    "evidence: bytes": evidence_byte,
    "evidence: removed": evidence_removed,
    "evidence: another release's": evidence_swapped,
    "items: a row": items_row,
    "items: rows deleted, doubled, moved": items_moved,
    "items: a row, digests and chain anew": items_row_anew,
    "decision: a field": decision_field,
    "decision: a field, lock, digests and chain anew": decision_field_anew,
    "lock: a field, sealed anew": lock_field,
    "card: bytes": card_byte,
    "card: another release's": card_swapped,
    "card: words, digests and chain anew": card_anew,
    "weights: bytes": weights_byte,
    "statement: bytes": statement_byte,
    "statement: another release's, chain anew": statement_swapped,
    "statement: by a stranger's key, chain anew": statement_by_stranger,
    "ledger: bytes of its file": ledger_byte,
    "ledger: a value": ledger_value,
    "ledger: a value, chain anew": ledger_value_anew,
    "ledger: an entry deleted": ledger_deleted,
    "ledger: an entry deleted, chain anew": ledger_deleted_anew,
    "ledger: two entries exchanged": ledger_order,
    "ledger: the end cut off": ledger_cut,
    "ledger: an approval put in, chain anew": ledger_inserted,
    "folder: bytes": folder_byte,
    "folder: a row of the items": folder_items_row,
    "folder: a field of its entries, hash anew": folder_field_anew,
    "folder: a row of the items, digests and hashes anew": folder_items_anew,
    "unsigned run: a value of an item": run_value,
}
"""By name; those that begin with `folder` are made to the exported folder, the last to a bare run, all others to the home."""
