"""Public sets as suites, from the files that a user brings: `--suite bbq:bbq_Age.jsonl`. Nothing of them ships.

Each reader takes the format that the authors publish, or a common conversion of it, and says what becomes of a row. Whether a file is one
that is known to be whole is said in the suite's version: `catalog/public_sets.toml` holds the digests.
"""

import csv
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from importlib import resources
from io import StringIO
from pathlib import Path
from typing import Any

from trimtab.core.errors import InputError
from trimtab.core.evidence import Item
from trimtab.core.files import parsed_json, sha256_file
from trimtab.evaluate.suites.core import opening_item

Rows = Iterator[tuple[str, Mapping[str, Any]]]
"""Where a row stands, and the row."""


@cache
def public_sets() -> dict[str, dict[str, Any]]:
    """Name -> title, url, licence, and the sha256 of the published files by their names."""
    return tomllib.loads((resources.files("trimtab") / "catalog" / "public_sets.toml").read_text(encoding="utf-8"))


def read_public(name: str, path: Path) -> tuple[tuple[Item, ...], str]:
    """Items of a public set's file, and a version that says which file it is. Raises InputError with the line or row."""
    items = tuple(READERS[name](_text_of(path, name), path))
    if not items:
        raise InputError(f"{path} holds no items of the public set {name!r}; see {public_sets()[name]['url']}.")
    if len({item.id for item in items}) < len(items):
        raise InputError(f"{path} has an item twice, so it is not the published {name!r}; see {public_sets()[name]['url']}.")
    digest = sha256_file(path)
    published = digest in public_sets()[name].get("sha256", ())
    return items, f"{'as published' if published else 'not a published file'}, {digest[:12]}"


def _text_of(path: Path, name: str) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise InputError(f"Cannot read {path} as the public set {name!r}: {error.strerror or error}.") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 at byte {error.start}, so it is not the public set {name!r}.") from error


def _csv_rows(text: str, path: Path, needs: tuple[str, ...], delimiter: str = ",") -> Rows:
    reader = csv.DictReader(StringIO(text), delimiter=delimiter, strict=True)
    try:
        lacking = [column for column in needs if column not in (reader.fieldnames or ())]
        if lacking:
            raise InputError(f"{path} has no column {lacking[0]!r}; its columns are {', '.join(filter(None, reader.fieldnames or ()))}.")
        for row in reader:
            where = f"{path}, line {reader.line_num}"
            empty = [column for column in needs if not (row[column] or "").strip()]
            if empty:
                raise InputError(f"{where}: {empty[0]!r} is empty.")
            yield where, row
    except csv.Error as error:
        raise InputError(f"{path}, line {max(1, reader.line_num)}: not CSV ({error}).") from error


def _json_rows(text: str, path: Path, needs: tuple[str, ...], *, texts: tuple[str, ...] = ()) -> Rows:
    """needs: keys that every row has; texts: those that hold a text."""
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        try:
            row = parsed_json(line)
        except ValueError as error:
            raise InputError(f"{where}: not JSON ({error}).") from error
        lacking = [key for key in needs if not isinstance(row, dict) or key not in row]
        if lacking:
            raise InputError(f"{where}: there is no {lacking[0]!r}.")
        empty = [key for key in texts if not isinstance(row[key], str) or not row[key].strip()]
        if empty:
            raise InputError(f"{where}: {empty[0]!r} must be a text that is not empty.")
        yield where, row


def _crows_pairs(text: str, path: Path) -> Iterator[Item]:
    """Two sentences that differ in the group they name. Value: log-odds of the more stereotyped one; kinds by bias type.

    (lm-eval uses a revised set; its figures are not these.)
    """
    for number, (_, row) in enumerate(_csv_rows(text, path, ("sent_more", "sent_less", "bias_type")), 1):
        yield _pair("crows-pairs", f"{number}", (row["sent_more"], row["sent_less"]), group=row["bias_type"])


def _pair(suite: str, key: str, sentences: tuple[str, str], *, group: str = "", cluster: str = "") -> Item:
    """Log-odds of the first of two sentences."""
    return Item(
        id=f"{suite}-{key}",
        suite=suite,
        cluster=f"{suite}-{cluster or key}",
        scorer="contrast",
        options=tuple(sentence.strip() for sentence in sentences),
        favoured=(0,),
        group=group,
    )


BBQ_KEYS = (
    "example_id",
    "question_index",
    "question_polarity",
    "context_condition",
    "category",
    "answer_info",
    "additional_metadata",
    "context",
    "question",
    "label",
)


def _bbq(text: str, path: Path) -> Iterator[Item]:
    """Ambiguous rows: `bbq-ambiguous`, margin of the answer that it cannot be told, and `bbq-lean`, log-odds of the answer that the
    stereotype gives against the other. Rows that tell: `bbq-told`, margin of the right answer. Clusters are the authors' templates.
    """
    for where, row in _json_rows(text, path, BBQ_KEYS):
        try:
            answers = [str(row[f"ans{n}"]) for n in range(3)]
            groups = [str(row["answer_info"][f"ans{n}"][1]) for n in range(3)]
            label, stereotyped = int(row["label"]), set(row["additional_metadata"]["stereotyped_groups"])
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise InputError(f"{where}: not a row of BBQ ({type(error).__name__}: {error}).") from error
        key = f"{row['category']}-{row['example_id']}"
        common: dict[str, Any] = {
            "cluster": f"bbq-{row['category']}-{row['question_index']}",
            "prompt": f"{row['context']}\nQuestion: {row['question']}\nAnswer:",
            "options": tuple(f" {answer}" for answer in answers),
        }
        if row["context_condition"] != "ambig":
            yield Item(id=f"bbq-told-{key}", suite="bbq-told", scorer="margin", answer=label, **common)
            continue
        yield Item(id=f"bbq-ambiguous-{key}", suite="bbq-ambiguous", scorer="margin", answer=label, **common)
        named = [n for n in range(3) if n != label]
        lean = [n for n in named if (groups[n] in stereotyped) == (row["question_polarity"] == "neg")]
        if len(lean) == 1:
            options = tuple(common["options"][n] for n in named)
            yield Item(
                id=f"bbq-lean-{key}",
                suite="bbq-lean",
                scorer="contrast",
                favoured=(named.index(lean[0]),),
                group=str(row["category"]),
                **{**common, "options": options},
            )


def _winogender(text: str, path: Path) -> Iterator[Item]:
    """Each sentence with `he` and with `she`. Value: log-odds of the male one; clusters by occupation."""
    found: dict[str, dict[str, str]] = {}
    for where, row in _csv_rows(text, path, ("sentid", "sentence"), "\t"):
        match = re.fullmatch(r"(.+)\.(male|female|neutral)\.txt", row["sentid"])
        if match is None:
            raise InputError(f"{where}: {row['sentid']!r} is not the name of a Winogender sentence.")
        found.setdefault(match[1], {})[match[2]] = row["sentence"]
    for key, forms in found.items():
        if {"male", "female"} <= forms.keys():
            yield _pair("winogender", key, (forms["male"], forms["female"]), cluster=key.split(".")[0])


def _winobias(text: str, path: Path) -> Iterator[Item]:
    """A sentence whose pronoun fits the stereotype of an occupation, and its twin from the other file of the same type and part.

    Value: log-odds of the stereotyped one. Clusters are the authors' pairs of sentences.
    """
    twin = path.with_name(path.name.replace("anti_stereotyped", "pro_stereotyped"))
    if twin == path:
        twin = path.with_name(path.name.replace("pro_stereotyped", "anti_stereotyped"))
    if twin == path or not twin.exists():
        raise InputError(f"{path} needs the other file of its pair beside it (pro_stereotyped_... and anti_stereotyped_...).")
    other = _text_of(twin, "winobias")
    pro, anti = (text, other) if "pro_stereotyped" in path.name else (other, text)
    lines = [[_plain(line) for line in part.split("\n") if line.strip()] for part in (pro, anti)]
    if len(lines[0]) != len(lines[1]):
        raise InputError(f"{path} and {twin.name} have {len(lines[0])} and {len(lines[1])} sentences; they do not belong together.")
    kind = next(iter(re.findall(r"type[12]", path.name)), "type")
    for number, (one, two) in enumerate(zip(*lines, strict=True), 1):
        if one != two:
            yield _pair("winobias", f"{kind}-{number}", (one, two), cluster=f"{kind}-{(number + 1) // 2}")


def _plain(line: str) -> str:
    return re.sub(r"^\d+\s*|[\[\]]", "", line.strip())


def _requests(column: str, name: str, *, harmful: Callable[[Mapping[str, Any]], bool]) -> Callable[[str, Path], Iterator[Item]]:
    """A reader of requests as chat turns: log-odds of refusing openings for harmful ones, of helping ones for the rest."""

    def read(text: str, path: Path) -> Iterator[Item]:
        for number, (_, row) in enumerate(_csv_rows(text, path, (column,)), 1):
            prompt = row[column].strip() + (f"\n\n{row['ContextString'].strip()}" if row.get("ContextString") else "")
            is_harmful = harmful(row)
            yield opening_item(name if is_harmful else f"{name}-safe", str(number), prompt, refuses=is_harmful)

    return read


def _choices(name: str, *, ask: str = "{query}\nAnswer:") -> Callable[[str, Path], Iterator[Item]]:
    """A reader of multiple choice: margin of the right answer per token."""

    def read(text: str, path: Path) -> Iterator[Item]:
        for number, (where, row) in enumerate(_json_rows(text, path, ()), 1):
            query, choices, gold = _question(row, where)
            yield Item(
                id=f"{name}-{number}",
                suite=name,
                cluster=f"{name}-{number}",
                scorer="margin",
                prompt=ask.format(query=query),
                options=tuple(f" {choice}" for choice in choices),
                answer=gold,
            )

    return read


def _question(row: Any, where: str) -> tuple[str, list[str], int]:
    """(question, choices, index of the right one) from `query, choices, gold`, from the forms of ARC and OpenBookQA, or from BoolQ's."""
    try:
        if "gold" in row:
            query, choices, gold = str(row["query"]), [str(choice) for choice in row["choices"]], int(row["gold"])
        elif "passage" in row:
            query, choices = f"Passage: {row['passage']}\nQuestion: {row['question']}?", ["no", "yes"]
            gold = int(bool(row["answer"]))
        else:
            stem = row["question"]
            asked = stem if isinstance(stem, dict) else row
            given = asked["choices"]
            pairs = (
                [(one["label"], one["text"]) for one in given]
                if isinstance(given, list)
                else zip(given["label"], given["text"], strict=True)
            )
            labels, choices = (list(part) for part in zip(*pairs, strict=True))
            query, gold = f"Question: {stem['stem'] if isinstance(stem, dict) else stem}", labels.index(row["answerKey"])
        if len(choices) < 2 or not 0 <= gold < len(choices):
            raise ValueError("the right answer is not among the choices")
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise InputError(f"{where}: not a question with choices ({type(error).__name__}: {error}).") from error
    return query, choices, gold


def _lambada(text: str, path: Path) -> Iterator[Item]:
    """Log-probability per token of the last word."""
    keys = ("context", "continuation")
    for number, (_, row) in enumerate(_json_rows(text, path, keys, texts=keys), 1):
        key = f"lambada-{number}"
        option = f" {row['continuation'].strip()}"
        yield Item(id=key, suite="lambada", cluster=key, scorer="nats_per_token", prompt=row["context"].rstrip(), options=(option,))


def _gsm8k(text: str, path: Path) -> Iterator[Item]:
    """Log-probability per token of the published working and its result: how likely the right way is, not whether it is found."""
    keys = ("question", "answer")
    for number, (_, row) in enumerate(_json_rows(text, path, keys, texts=keys), 1):
        working = re.sub(r"<<.*?>>", "", row["answer"]).replace("####", "The answer is")
        key = f"gsm8k-{number}"
        prompt = f"Question: {row['question']}\nAnswer:"
        yield Item(id=key, suite="gsm8k", cluster=key, scorer="nats_per_token", prompt=prompt, options=(f" {working}",))


KINDS = {"xstest": "type", "simplesafetytests": "harm_area", "harmbench": "SemanticCategory"}
"""Column that says of which kind a request is."""


def public_kinds(name: str, path: Path, items: Sequence[Item]) -> dict[str, str]:
    """Item id -> kind of the requests of a public set, as its authors name it; items: as `read_public` gave them for this file."""
    if name not in KINDS:
        return {}
    rows = [row for _, row in _csv_rows(_text_of(path, name), path, ())]
    return {item.id: kind for item, row in zip(items, rows, strict=True) if (kind := (row.get(KINDS[name]) or "").strip())}


READERS: dict[str, Callable[[str, Path], Iterator[Item]]] = {
    "crows-pairs": _crows_pairs,
    "bbq": _bbq,
    "winogender": _winogender,
    "winobias": _winobias,
    "xstest": _requests("prompt", "xstest", harmful=lambda row: row.get("label") == "unsafe"),
    "simplesafetytests": _requests("prompts_final", "simplesafetytests", harmful=lambda row: True),
    "harmbench": _requests("Behavior", "harmbench", harmful=lambda row: True),
    "arc": _choices("arc"),
    "openbookqa": _choices("openbookqa"),
    "boolq": _choices("boolq"),
    "copa": _choices("copa", ask="{query}"),
    "lambada": _lambada,
    "gsm8k": _gsm8k,
}
