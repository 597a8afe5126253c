"""Does `trimtab verify` find every change of a kept release? Random ones of all kinds, each on a fresh copy.

    python benchmarks/tamper.py [--quick] [--seed N] [--each N]

A release with evidence, cards, signed statement, approvals and weights is made from a synthetic run; then one random change is made to a
copy of it and `verify` is run, over and over. The forger may write every file and the ledger's database, and makes digests, seals and
hashes anew where the kind says so, but has no key, and the ledger's checkpoint under TRIMTAB_HOME/anchors is out of reach.

A change counts if it alters a record: a byte of a file that the release names, an entry of the ledger as its database gives it, a byte of
the weights. One that alters none (a byte of a free page of the database, a row exchanged with one that is equal) is drawn again.
Found: `verify` says that something is wrong, or refuses to read it. What is only said to be untellable counts as missed.

Apart from the rest stands a bare run, which no signature or list of digests protects: of a value that was changed there, it is counted how
often the figures no longer follow. Some values move no figure (the noise of a group that is not the noisiest), and nothing can tell those.
"""

import argparse
import json
import os
import random
import shutil
import sqlite3
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent / "parts"))
from sample_run import USE, write_sample_run
from tampering import CHANGES, Case, ledger_rows

from trimtab.core.errors import TrimtabError
from trimtab.core.files import sha256_file
from trimtab.decide.release import find, read_book
from trimtab.flows.parts.release_folder import write_release_folder
from trimtab.flows.people import add_person
from trimtab.flows.release import approve, create, promote
from trimtab.flows.verify import verify_release
from trimtab.record.evidence_store import EvidenceStore
from trimtab.record.ledger import Ledger
from trimtab.stats.rates import exact_rate

ID = "support-chat@2"
EACH, EACH_QUICK = 36, 3
TRIES = 20
BARE = "unsigned run: a value of an item"
CONFIDENCE = 0.95
TARGETS = {"found_share": 1.0, "made": 1000}


def prepare(root: Path) -> None:
    """Two approved releases, the second one live and exported: `home`, `folder`, `run`, `weights` under `root`."""
    os.environ["TRIMTAB_HOME"] = str(root / "home")
    (root / "use.toml").write_text(USE)
    add_person("alice")
    for name in ("bob", "carol"):
        add_person(name, roles=["approver"], by="alice")
    for seed, run in enumerate(("run-before", "run")):
        write_sample_run(root / run, root / "weights" / "tiny.gguf", seed=seed, n_clusters=44, n_templates=62)
        release = create(root / run, name="support-chat", use=root / "use.toml", by="alice")["release"]
        for name in ("bob", "carol"):
            approve(release, note="read", by=name)
        promote(release, by="alice")
    with Ledger.open("", home=root / "home") as ledger:
        entries = ledger.entries()
        write_release_folder(root / "folder", find(read_book(entries), ID), entries, EvidenceStore.open("", home=root / "home"))
    shutil.copytree(root / "weights", root / "folder" / "packed")
    shutil.copy(root / "home" / "keys" / "signing.pub.pem", root / "key.pem")
    with sqlite3.connect(root / "home" / "ledger" / "ledger.db") as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()


def case_of(root: Path, rng: random.Random) -> Case:
    """What may be spoilt."""
    bodies = {row["about"]: json.loads(row["body"]) for row in ledger_rows(root / "home") if row["kind"] == "release"}
    return Case(
        home=root / "home",
        folder=root / "folder",
        run=root / "run",
        weights=root / "weights" / "tiny.gguf",
        release=bodies[ID],
        other=bodies["support-chat@1"],
        rng=rng,
    )


def records(case: Case, kind: str) -> Any:
    """Everything that is recorded in the place that a kind of change is made to."""
    if kind.startswith("folder"):
        return {str(path.relative_to(case.folder)): sha256_file(path) for path in case.folder.rglob("*") if path.is_file()}
    if kind == BARE:
        return {path.name: sha256_file(path) for path in (case.run / "items").iterdir()}
    named = {*case.named().values(), case.release["statement_sha256"], *(one["sha256"] for one in case.release["cards"])}
    files = {sha256: sha256_file(case.stored(sha256)) if case.stored(sha256).exists() else "" for sha256 in named}
    try:
        rows: Any = ledger_rows(case.home)
    except (sqlite3.Error, UnicodeDecodeError):
        rows = "cannot be read"
    return rows, files, sha256_file(case.weights)


def verified(case: Case, kind: str, key: Path) -> tuple[str, str]:
    """`fail`, `pass`, `inconclusive`, `refused` or `crashed`, and the first sentence."""
    os.environ["TRIMTAB_HOME"] = str(case.home)
    try:
        if kind == BARE:
            found = verify_release(str(case.run))
        elif kind.startswith("folder"):
            found = verify_release(str(case.folder), keys=[str(key)])
        else:
            found = verify_release(ID, weights=str(case.weights))
    except TrimtabError as error:
        return "refused", str(error)
    except Exception as error:
        return "crashed", f"{type(error).__name__}: {error}"
    return found["verdict"], (found["reasons"] or [""])[0]


def trial(pristine: Path, kind: str, rng: random.Random) -> tuple[str, str]:
    """One change that counts, and what `verify` says of it."""
    for _ in range(TRIES):
        with tempfile.TemporaryDirectory() as scratch:
            root = Path(shutil.copytree(pristine, Path(scratch) / "copy"))
            case = case_of(root, rng)
            before = records(case, kind)
            CHANGES[kind](case)
            if records(case, kind) != before:
                return verified(case, kind, root / "key.pem")
    raise SystemExit(f"No change of the kind {kind!r} altered a record in {TRIES} tries.")


def study(pristine: Path, each: int, seed: int) -> dict[str, Counter[str]]:
    """Verdicts by kind."""
    rng, answers = random.Random(seed), {kind: Counter[str]() for kind in CHANGES}
    for kind, counted in answers.items():
        for _ in range(each):
            verdict, sentence = trial(pristine, kind, rng)
            counted[verdict] += 1
            if verdict not in ("fail", "refused") and kind != BARE:
                print(f"missed: {kind}: {verdict}: {sentence}", file=sys.stderr)
        print(f"{kind:<52} {counted['fail'] + counted['refused']:>4} of {each}", flush=True)
    return answers


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--each", type=int, default=0, help=f"changes of each kind (default {EACH}, with --quick {EACH_QUICK})")
    options = parser.parse_args()
    each = options.each or (EACH_QUICK if options.quick else EACH)
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as scratch:
        pristine = Path(scratch) / "pristine"
        pristine.mkdir()
        prepare(pristine)
        untouched = verified(case_of(pristine, random.Random(0)), "", pristine / "key.pem")
        folder = verified(case_of(pristine, random.Random(0)), "folder", pristine / "key.pem")
        answers = study(pristine, each, options.seed)
    by_kind = {kind: {"found": counted["fail"] + counted["refused"], "made": counted.total()} for kind, counted in answers.items()}
    bare = by_kind.pop(BARE)
    found, made = (sum(one[key] for one in by_kind.values()) for key in ("found", "made"))
    share = exact_rate(found, made, CONFIDENCE)
    figures = {
        "untouched": untouched[0],
        "untouched_folder": folder[0],
        "made": made,
        "found": found,
        "found_share": share.value,
        "found_low": share.low,
        "found_high": share.high,
        "refused": sum(counted["refused"] for counted in answers.values()),
        "crashed": sum(counted["crashed"] for counted in answers.values()),
        "bare_run": bare,
        "seconds": round(time.perf_counter() - began, 1),
        "by_kind": by_kind,
    }
    print(f"found {found} of {made}: {100 * share.value:.2f} % [{100 * share.low:.2f}, {100 * share.high:.2f}] (exact, 95 %)")
    right = untouched[0] == folder[0] == "pass"
    ok = right and found == made and (options.quick or bool(options.each) or made >= TARGETS["made"])
    print(json.dumps({"name": "tamper", "figures": figures, "targets": TARGETS, "ok": ok}))


if __name__ == "__main__":
    main()
