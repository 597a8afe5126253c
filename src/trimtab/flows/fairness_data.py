"""The data before training: who is in it, what goes with whom, duplicates, personal data, and a datasheet."""

import hashlib
import re
from collections import Counter
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from trimtab.core.errors import InputError
from trimtab.core.files import canonical_json, sha256_file, to_plain, write_atomic
from trimtab.describe.associations import Association, association, distinctive_words, shares
from trimtab.describe.datasheet import datasheet
from trimtab.describe.near_duplicates import LIKENESS, MinHash, Signature, near_groups, normalised
from trimtab.describe.personal_data import KINDS, count_personal
from trimtab.flows.events import Event, OnEvent, ignore
from trimtab.record.disk import sentences
from trimtab.sources.table import Batch, Table, open_table

SCHEMA = "trimtab.fairness_data/1"
MOST_COLUMNS = 4
MOST_VALUES = 200
MOST_IN_AXIS = 2000
MOST_SIGNATURES = 200_000
MOST_WORDS = 300_000
_MOST_PLACES = 20
_LEAST_TEXTS = 3


def fairness_data(
    path: str | Path,
    *,
    text: str = "",
    groups: Sequence[str] = (),
    label: str = "",
    out: Path | None = None,
    seed: int = 0,
    on_event: OnEvent = ignore,
) -> dict[str, Any]:
    """Count a table of examples and, with `out`, write data.json, datasheet.md and report.html.

    text, groups, label: columns. Returns the document (schema trimtab.fairness_data/1) as JSON types. Raises InputError, MissingError.
    """
    if not text and not groups:
        raise InputError("Name what to look at: --fields TEXT,GROUP for texts, --group for columns of groups.")
    if len(groups) > MOST_COLUMNS:
        raise InputError(f"{len(groups)} group columns are too many; give at most {MOST_COLUMNS}.")
    named = [name for name in (text, *groups, label) if name]
    twice = [name for name in named if named.count(name) > 1]
    if twice:
        raise InputError(f"Column {twice[0]!r} is named twice; text, label and each group need columns of their own.")
    table = open_table(path)
    table.need(named)
    counting = _Counting(table, text, tuple(groups), label, seed)
    for batch in table.batches(named):
        counting.add(batch)
        on_event(Event(phase="read", message=f"{counting.n_rows:,} rows", done=counting.n_rows))
    on_event(Event(phase="compare", message="looking for near duplicates and words that stand out"))
    document = _document(table, counting, seed)
    if out is not None:
        from trimtab.record.fairness_report import write_fairness_report

        with sentences(out, "write"):
            write_atomic(out / "data.json", canonical_json(document) + "\n")
            write_atomic(out / "datasheet.md", datasheet(document))
        write_fairness_report(out / "report.html", document)
    return document


class _Counting:
    """One pass over the rows. A text is kept as a hash of 8 bytes and, for the first MOST_SIGNATURES distinct ones, as a signature."""

    def __init__(self, table: Table, text: str, groups: tuple[str, ...], label: str, seed: int) -> None:
        self.table, self.text, self.groups, self.label = table, text, groups, label
        self.n_rows = 0
        self.missing: Counter[str] = Counter()
        self.cells: Counter[tuple[tuple[str, ...], str]] = Counter()
        self.words: dict[str, dict[str, Counter[str]]] = {name: {} for name in groups}
        self.words_were_cut = False
        self.hashes: list[np.ndarray[Any, np.dtype[np.uint64]]] = []
        self.seen: set[int] = set()
        self.label_of: dict[int, str] = {}
        self.conflicts: set[int] = set()
        self.minhash = MinHash(seed)
        self.signatures: list[Signature] = []
        self.places: list[int] = []
        self.n_texts = 0
        self.personal: dict[str, dict[str, Any]] = {kind: {"found": 0, "texts": 0, "places": []} for kind in KINDS}

    def add(self, batch: Batch) -> None:
        columns = {name: batch.texts(name) for name in (*self.groups, *([self.label] if self.label else []))}
        for name, values in columns.items():
            self.missing[name] += sum(value is None for value in values)
        for place in range(batch.n):
            key = tuple(columns[name][place] or "(missing)" for name in self.groups)
            self.cells[key, (columns[self.label][place] or "(missing)") if self.label else ""] += 1
        self._check_values(batch)
        if self.text:
            self._add_texts(batch, columns)
        self.n_rows += batch.n

    def _check_values(self, batch: Batch) -> None:
        whole = {key for key, _ in self.cells}
        for k, name in enumerate(self.groups):
            if len({key[k] for key in whole}) > MOST_VALUES:
                raise InputError(
                    f"Column {name!r} of {self.table.path} holds more than {MOST_VALUES} different values before {self.table.unit} "
                    f"{batch.first + batch.n}; a group column has few: group them, or name another column."
                )
        if len(whole) > MOST_IN_AXIS:
            raise InputError(
                f"{' x '.join(self.groups)} of {self.table.path} make more than {MOST_IN_AXIS} groups before {self.table.unit} "
                f"{batch.first + batch.n}; name fewer group columns, or put their values into fewer groups."
            )
        if self.label and len({label for _, label in self.cells}) > MOST_VALUES:
            raise InputError(
                f"The label {self.label!r} of {self.table.path} holds more than {MOST_VALUES} different values before {self.table.unit} "
                f"{batch.first + batch.n}; group them into classes first."
            )

    def _add_texts(self, batch: Batch, columns: dict[str, list[str | None]]) -> None:
        hashes = []
        for place, text in enumerate(batch.texts(self.text)):
            if text is None:
                self.missing[self.text] += 1
                continue
            self.n_texts += 1
            row = batch.first + place
            for kind, n in count_personal(text).items():
                found = self.personal[kind]
                found["found"] += n
                found["texts"] += 1
                if len(found["places"]) < _MOST_PLACES:
                    found["places"].append(row)
            plain = normalised(text)
            code = int.from_bytes(hashlib.blake2b(plain.encode(), digest_size=8).digest(), "big")
            hashes.append(code)
            self._add_distinct(code, plain, row, columns[self.label][place] if self.label else None)
            present = set(plain.split())
            for name in self.groups:
                counts = self.words[name].setdefault(columns[name][place] or "(missing)", Counter())
                counts.update(present)
        self.hashes.append(np.array(hashes, dtype=np.uint64))
        self._cut_words()

    def _add_distinct(self, code: int, plain: str, row: int, label: str | None) -> None:
        if code in self.seen:
            if label is not None and self.label_of.get(code, label) != label:
                self.conflicts.add(code)
            return
        if len(self.signatures) < MOST_SIGNATURES:
            self.seen.add(code)
            if label is not None:
                self.label_of[code] = label
            self.signatures.append(self.minhash.signature(plain))
            self.places.append(row)

    def _cut_words(self) -> None:
        """Words of one text only say nothing about a group; they go when there are too many."""
        for counts_of in self.words.values():
            for counts in counts_of.values():
                if len(counts) > MOST_WORDS:
                    self.words_were_cut = True
                    for word in [word for word, n in counts.items() if n == 1]:
                        del counts[word]


def _document(table: Table, counting: _Counting, seed: int) -> dict[str, Any]:
    groups, cells = counting.groups, counting.cells
    axes = [axis for size in sorted({1, 2, len(groups)}) if size <= len(groups) for axis in combinations(range(len(groups)), size)]
    representation = []
    for axis in axes:
        counts: Counter[str] = Counter()
        for (key, _), n in cells.items():
            counts[", ".join(key[k] for k in axis)] += n
        representation.append({"axis": [groups[k] for k in axis], "groups": to_plain(shares(counts))})
    duplicates = _duplicates(counting) if counting.text else None
    notes = ["Shares are of these rows; intervals say how well they tell of the source that the rows are a sample of."]
    if counting.text and groups:
        notes.append(
            "Words: z of log-odds with an informative Dirichlet prior; a text counts a word once; only those beyond chance over all words."
        )
    if counting.words_were_cut:
        notes.append("The vocabulary is large: words of a single text were left out.")
    if counting.text:
        notes.append("Personal data is found by pattern; names, addresses and what is told in words are not.")
    return {
        "schema": SCHEMA,
        "headline": _headline(counting, duplicates),
        "input": {
            "path": str(table.path),
            "name": table.path.name,
            "sha256": sha256_file(table.path),
            "rows": counting.n_rows,
            "columns": list(table.columns),
            "text": counting.text,
            "groups": list(groups),
            "label": counting.label,
            "missing": dict(counting.missing),
        },
        "representation": representation,
        "labels": _labels(counting) if counting.label else None,
        "label_association": _label_association(counting, axes, seed) if counting.label else [],
        "words": _words(counting) if counting.text else [],
        "duplicates": duplicates,
        "personal_data": [{"kind": kind, **found} for kind, found in counting.personal.items() if found["found"]],
        "notes": notes,
    }


def _headline(counting: _Counting, duplicates: dict[str, Any] | None) -> str:
    parts = [f"{counting.n_rows:,} rows"]
    if duplicates:
        parts.append(f"{duplicates['exact']:,} repeated and {duplicates['near']:,} nearly repeated texts")
    personal = sum(found["found"] for found in counting.personal.values())
    if counting.text:
        parts.append(f"{personal:,} pieces of what looks like personal data" if personal else "no pattern of personal data")
    return "; ".join(parts) + "."


def _labels(counting: _Counting) -> dict[str, Any]:
    counts: Counter[str] = Counter()
    for (_, label), n in counting.cells.items():
        counts[label] += n
    return {"column": counting.label, "shares": to_plain(shares(counts))}


def _label_association(counting: _Counting, axes: Sequence[tuple[int, ...]], seed: int) -> list[dict[str, Any]]:
    """Of each axis: strength, and the share of each label in each group."""
    found = []
    labels = sorted({label for _, label in counting.cells})
    for axis in axes:
        counts: dict[str, Counter[str]] = {}
        for (key, label), n in counting.cells.items():
            counts.setdefault(", ".join(key[k] for k in axis), Counter())[label] += n
        table = [[counts[group][label] for label in labels] for group in sorted(counts)]
        strength = association(table, seed)
        name = " x ".join(counting.groups[k] for k in axis)
        found.append(
            {
                "axis": [counting.groups[k] for k in axis],
                "strength": to_plain(strength),
                "groups": [{"group": group, "labels": to_plain(shares(counts[group]))} for group in sorted(counts)],
                "sentence": _strength(name, counting.label, strength),
            }
        )
    return found


def _strength(axis: str, label: str, found: Association | None) -> str:
    if found is None:
        return f"{axis} and {label}: one of them has a single value, so nothing can go together."
    rough = " (rough: some combinations are rare)" if found.sparse else ""
    return (
        f"{axis} and {label}: Cramér's V {found.cramers_v:.3f} (95 % interval {found.low:.3f} to {found.high:.3f}), "
        f"{found.bits:.4f} bits, p = {found.p:.2g}{rough}."
    )


def _words(counting: _Counting) -> list[dict[str, Any]]:
    found = []
    for name in counting.groups:
        counts = {
            group: {word: n for word, n in words.items() if re.search(r"[^\W\d_]", word)} for group, words in counting.words[name].items()
        }
        total: Counter[str] = Counter()
        for words in counts.values():
            total.update(words)
        kept = {group: {word: n for word, n in words.items() if total[word] >= _LEAST_TEXTS} for group, words in counts.items()}
        ranked = distinctive_words(kept)
        found.append({"column": name, "groups": [{"group": group, "words": to_plain(words)} for group, words in sorted(ranked.items())]})
    return found


def _duplicates(counting: _Counting) -> dict[str, Any]:
    hashes = np.concatenate(counting.hashes) if counting.hashes else np.empty(0, dtype=np.uint64)
    _, counts = np.unique(hashes, return_counts=True)
    exact = int((counts - 1).sum())
    groups = near_groups(counting.signatures)
    near = sum(len(group) - 1 for group in groups)
    looked = len(counting.signatures)
    part = "" if looked == counts.size else f" (looked for among the first {looked:,} distinct texts)"
    conflicts = f" {len(counting.conflicts):,} texts occur with different labels." if counting.label else ""
    return {
        "texts": counting.n_texts,
        "exact": exact,
        "near": near,
        "distinct_compared": looked,
        "likeness": LIKENESS,
        "largest": [[counting.places[k] for k in group[:_MOST_PLACES]] for group in groups[:_MOST_PLACES]],
        "label_conflicts": len(counting.conflicts),
        "sentence": (
            f"Of {counting.n_texts:,} texts {exact:,} repeat another one word for word; of the distinct ones {near:,} are near "
            f"duplicates of another{part}.{conflicts}"
        ),
    }
