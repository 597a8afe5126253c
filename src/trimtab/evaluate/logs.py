"""What other tools measured, item by item, as outcomes: sample logs of lm-evaluation-harness, logs of Inspect, and plain JSON lines.

lm-eval: `samples_TASK_*.jsonl` (its --log_samples). Value: of multiple choice the log-probability of the right option less that of the best
wrong one, of a single continuation its log-probability, of a whole text that of a word or byte, else the first metric. Inspect: `.json` or
`.eval`; value: the first scorer's.
Plain: `{"id": ..., "value": 0.3}` or `{"id": ..., "correct": true}`, with `suite`, `cluster`, `group`, `prompt` where there are any.
"""

import math
import re
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from trimtab.core.errors import InputError
from trimtab.core.evidence import Item, Outcome
from trimtab.core.files import parsed_json
from trimtab.evaluate.requests import option_probabilities

INSPECT_GRADES = {"C": 1.0, "I": 0.0, "P": 0.5, "N": 0.0}
"""Correct, incorrect, partial, no answer."""
INSPECT_WORDS = {"yes": 1.0, "true": 1.0, "no": 0.0, "false": 0.0}
INSPECT_HEADS = ("header.json", "_journal/start.json")
Row = tuple[Outcome, str, Item]
"""What was observed, its unit, and what was asked, for people to read."""


@dataclass(frozen=True, kw_only=True)
class Log:
    """units: of the values, by sub-suite: nats, or share (0 to 1). items: what was asked, in the order of the outcomes."""

    source: str
    kind: str
    outcomes: tuple[Outcome, ...]
    units: Mapping[str, str]
    items: tuple[Item, ...] = ()


def read_log(path: Path) -> Log:
    """Raises InputError, which names the line or sample."""
    try:
        if path.suffix == ".eval" or path.suffix == ".json":
            rows, kind = list(_inspect(path)), "inspect"
        else:
            rows, kind = _lines(path)
    except OSError as error:
        raise InputError(f"Cannot read the log {path}: {error.strerror or error}.") from error
    except (UnicodeDecodeError, zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise InputError(f"{path} is no log that can be read ({error}).") from error
    if not rows:
        raise InputError(f"The log {path} holds no samples; lm-eval writes them beside its results with --log_samples.")
    seen: set[tuple[str, str]] = set()
    for outcome, *_ in rows:
        if (outcome.suite, outcome.item_id) in seen:
            raise InputError(f"The log {path} has the sample {outcome.item_id!r} twice; give one run's samples, of one filter.")
        seen.add((outcome.suite, outcome.item_id))
    return Log(
        source=str(path),
        kind=kind,
        outcomes=tuple(one for one, _, _ in rows),
        units={one.suite: unit for one, unit, _ in rows},
        items=tuple(item for _, _, item in rows),
    )


def _lines(path: Path) -> tuple[list[Row], str]:
    rows: list[Row] = []
    kind = "plain"
    for number, line in enumerate(path.read_text(encoding="utf-8-sig").split("\n"), 1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        try:
            row = parsed_json(line)
        except ValueError as error:
            raise InputError(f"{where}: not JSON ({error}).") from error
        if not isinstance(row, dict):
            raise InputError(f"{where}: an object is needed.")
        if "doc_id" in row and "filtered_resps" in row:
            kind = "lm-eval"
            outcome, unit = lm_eval_outcome(row, _task_of(path), where)
            rows.append((outcome, unit, _lm_eval_item(row, outcome)))
        else:
            rows.append(_plain(row, path.stem, where))
    return rows, kind


def _task_of(path: Path) -> str:
    """`arc_easy` of `samples_arc_easy_2026-11-25T10-00-00.123.jsonl`."""
    found = re.fullmatch(r"samples_(.+?)(?:_\d{4}-\d\d-\d\dT[\d.-]+)?", path.stem)
    return found[1] if found else path.stem


def lm_eval_outcome(row: Mapping[str, Any], task: str, where: str) -> tuple[Outcome, str]:
    """A sample of lm-eval, as it logs it, as an outcome, with the unit of its value. where: what an error names. Raises InputError."""
    told = row.get("metrics")
    metrics = [name for name in (told if isinstance(told, list | tuple) else ()) if isinstance(row.get(name), int | float)]
    main = next((name for name in ("acc", "exact_match", *metrics) if name in metrics), None)
    correct = bool(row[main]) if main is not None and row[main] in (0, 1) else None
    value, unit, picked = None, "nats", None
    try:
        scored = [float(pair[0]) for pair in row["filtered_resps"] if isinstance(pair, list | tuple) and len(pair) == 2]
    except (TypeError, ValueError):
        scored = []
    if "acc_mutual_info" in row:
        scored = scored[: len(scored) // 2]  # the second half are the options without their question
    p_options: tuple[float, ...] = ()
    if len(scored) > 1 and (right := _index(row.get("target"), len(scored))) is not None:
        value = scored[right] - max(one for index, one in enumerate(scored) if index != right)
        picked = max(range(len(scored)), key=scored.__getitem__)
        p_options = option_probabilities(scored, right) if all(map(math.isfinite, scored)) else ()
    elif len(scored) == 1:
        value = scored[0]
    elif (rolled := _per_unit(row)) is not None:
        value, unit = rolled
    elif main is not None:
        value, unit = float(row[main]), "share"
    else:
        raise InputError(f"{where}: the sample has neither log-probabilities nor a metric that is a number.")
    key = f"{task}/{row.get('doc_hash') or row['doc_id']}"
    return replace(_outcome(key, task, key, value, correct=correct, picked=picked), p_options=p_options), unit


def asked_item(key: str, suite: str, cluster: str, asked: Sequence[Sequence[Any]], right: Callable[[Sequence[str]], int | None]) -> Item:
    """What lm-eval asked, for people to read: prompt and options where it is scored by likelihood, else the prompt alone.

    asked: the arguments of its requests; right: index of the right one among options, None where there is none
    """
    prompt = str(asked[0][0]) if asked and asked[0] else ""
    options = tuple(str(args[1]) for args in asked if len(args) == 2 and isinstance(args[1], str))
    answer = right(options)
    if len(options) > 1 and answer is not None:
        return Item(id=key, suite=suite, cluster=cluster, scorer="margin", prompt=prompt, options=options, answer=answer)
    if len(options) == 1:
        return Item(id=key, suite=suite, cluster=cluster, scorer="nats_per_token", prompt=prompt, options=options)
    return _item(key, suite, cluster, prompt)


def _item(key: str, suite: str, cluster: str, prompt: Any = "") -> Item:
    """An item of which no more than the prompt is known."""
    return Item(id=key, suite=suite, cluster=cluster, scorer="contrast", options=(), prompt=prompt if isinstance(prompt, str) else "")


def _lm_eval_item(row: Mapping[str, Any], outcome: Outcome) -> Item:
    told = row.get("arguments")
    each = list(told.values()) if isinstance(told, dict) else told if isinstance(told, list) else []
    asked = [list(one.values()) if isinstance(one, dict) else one for one in each if isinstance(one, dict | list)]
    if "acc_mutual_info" in row:
        asked = asked[: len(asked) // 2]
    return asked_item(outcome.item_id, outcome.suite, outcome.cluster, asked, lambda options: _index(row.get("target"), len(options)))


def _per_unit(row: Mapping[str, Any]) -> tuple[float, str] | None:
    """Log-probability of a whole text for each of its words, or bytes, and the unit."""
    for name, unit in (("word_perplexity", "nats/word"), ("byte_perplexity", "nats/byte")):
        pair = row.get(name)
        if isinstance(pair, list | tuple) and len(pair) == 2 and all(isinstance(one, int | float) for one in pair) and pair[1]:
            return pair[0] / pair[1], unit
    return None


def _index(target: Any, n: int) -> int | None:
    """The right option's index, where the task names it by one."""
    text = str(target).strip()
    return int(text) if text.isdecimal() and int(text) < n else None


def _plain(row: Mapping[str, Any], name: str, where: str) -> Row:
    key, value, correct = row.get("id"), row.get("value"), row.get("correct")
    if not isinstance(key, str | int) or isinstance(key, bool):
        raise InputError(f"{where}: 'id' must name the item.")
    if value is None and not isinstance(correct, bool):
        raise InputError(f"{where}: give 'value', a number of which more is better, or 'correct', true or false.")
    if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
        raise InputError(f"{where}: 'value' must be a number, not {value!r}.")
    suite = str(row.get("suite", name))
    number = float(bool(correct)) if value is None else float(value)
    flag = correct if isinstance(correct, bool) else None
    unit = "share" if value is None else str(row.get("unit", "points"))
    cluster = str(row.get("cluster", key))
    outcome = _outcome(str(key), suite, cluster, number, correct=flag, group=str(row.get("group", "")))
    return outcome, unit, _item(str(key), suite, cluster, row.get("prompt"))


def _inspect(path: Path) -> Iterator[Row]:
    """Samples of an Inspect log, in JSON or its zip form; epochs of one sample share a cluster."""
    head, samples = _zipped(path) if path.suffix == ".eval" else _whole(path)
    about = head.get("eval")
    task = str((about if isinstance(about, dict) else {}).get("task", path.stem))
    for number, sample in enumerate(samples, 1):
        if not isinstance(sample, dict):
            raise InputError(f"{path}, sample {number}: an object is needed, as Inspect writes them.")
        name, scores = f"{sample.get('id', number)}", sample.get("scores") or {}
        asked = _said(sample.get("input"))
        if not scores:
            yield _outcome(name, task, name, None), "share", _item(name, task, name, asked)
            continue
        first = next(iter(scores.values())) if isinstance(scores, dict) else None
        value = first.get("value") if isinstance(first, dict) else first
        grade = _grade(value)
        if grade is None:
            raise InputError(f"{path}, sample {name!r}: the score {value!r:.80} is no grade and no number.")
        key = f"{name}/{sample.get('epoch', 1)}"
        correct = grade == 1.0 if grade in (0.0, 1.0) else None
        yield _outcome(key, task, name, grade, correct=correct), "share", _item(key, task, name, asked)


def _said(asked: Any) -> str:
    """The input of a sample of Inspect as text: it is one, or a list of messages."""
    if not isinstance(asked, list):
        return asked if isinstance(asked, str) else ""
    contents = [message.get("content") for message in asked if isinstance(message, dict)]
    return "\n\n".join(content for content in contents if isinstance(content, str))


def _whole(path: Path) -> tuple[dict[str, Any], Sequence[Any]]:
    """(head, samples) of the JSON form."""
    found = _json(path.read_text(encoding="utf-8-sig"), str(path))
    samples = found.get("samples") or ()
    if not isinstance(samples, list | tuple):
        raise InputError(f"{path}: 'samples' must be a list, as Inspect writes it.")
    return found, samples


def _zipped(path: Path) -> tuple[dict[str, Any], Sequence[Any]]:
    """(head, samples) of the zip form. Of a run that did not finish the head is that of its beginning."""
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        head = next((name for name in INSPECT_HEADS if name in names), "")
        if not head:
            raise InputError(f"{path} is a zip without {INSPECT_HEADS[0]}, so it is no log of Inspect.")
        try:
            read = {
                name: _json(archive.read(name).decode("utf-8"), f"{path}, {name}")
                for name in sorted(names)
                if name == head or (name.startswith("samples/") and name.endswith(".json"))
            }
        except NotImplementedError as error:  # Inspect can compress by zstd, which Python reads from 3.14 on
            raise InputError(
                f"{path} is compressed in a way that is not read here ({error}); `inspect log dump` writes it as JSON."
            ) from None
    return read.pop(head), list(read.values())


def _grade(value: Any) -> float | None:
    """A score's value as a number, by Inspect's own rules; None if it is none."""
    if isinstance(value, int | float):
        return float(value)
    if not isinstance(value, str):
        return None
    if value in INSPECT_GRADES:
        return INSPECT_GRADES[value]
    try:
        return INSPECT_WORDS[value.lower()] if value.lower() in INSPECT_WORDS else float(value)
    except ValueError:
        return None


def _json(text: str, where: str) -> Any:
    try:
        found = parsed_json(text)
    except ValueError as error:
        raise InputError(f"{where}: not JSON ({error}).") from error
    if not isinstance(found, dict):
        raise InputError(f"{where}: an object is needed.")
    return found


def _outcome(
    key: str, suite: str, cluster: str, value: float | None, *, correct: bool | None = None, picked: int | None = None, group: str = ""
) -> Outcome:
    known = value if value is not None and math.isfinite(value) else None
    return Outcome(
        item_id=key,
        suite=suite,
        cluster=cluster,
        value=known,
        n_tokens=1,
        group=group,
        picked=picked,
        correct=correct,
        error="" if known is not None else "the log has no number for it",
    )
