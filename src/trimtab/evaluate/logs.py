"""What other tools measured, item by item, as outcomes: sample logs of lm-evaluation-harness, logs of Inspect, and plain JSON lines.

lm-eval: `samples_TASK_*.jsonl` (its --log_samples). Value: of multiple choice the log-probability of the right option less that of the best
wrong one, of a single continuation its log-probability, of a whole text that of a word or byte, else the first metric. Inspect: `.json` or
`.eval`; value: the first scorer's.
Plain: `{"id": ..., "value": 0.3}` or `{"id": ..., "correct": true}`, with `suite`, `cluster`, `group` where there are any.
"""

import json
import math
import re
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from trimtab.core.errors import InputError
from trimtab.core.evidence import Outcome
from trimtab.evaluate.requests import option_probabilities

INSPECT_GRADES = {"C": 1.0, "I": 0.0, "P": 0.5, "N": 0.0}
"""Correct, incorrect, partial, no answer."""


@dataclass(frozen=True, kw_only=True)
class Log:
    """unit of the values: nats, or share (0 to 1)."""

    source: str
    kind: str
    outcomes: tuple[Outcome, ...]
    units: Mapping[str, str]


def read_log(path: Path) -> Log:
    """Raises InputError, which names the line or sample."""
    try:
        if path.suffix == ".eval" or path.suffix == ".json":
            rows, kind = list(_inspect(path)), "inspect"
        else:
            rows, kind = _lines(path)
    except OSError as error:
        raise InputError(f"Cannot read the log {path}: {error.strerror or error}.") from error
    except (UnicodeDecodeError, zipfile.BadZipFile) as error:
        raise InputError(f"{path} is no log that can be read ({error}).") from error
    if not rows:
        raise InputError(f"The log {path} holds no samples.")
    seen: set[tuple[str, str]] = set()
    for outcome, _ in rows:
        if (outcome.suite, outcome.item_id) in seen:
            raise InputError(f"The log {path} has the sample {outcome.item_id!r} twice; give one run's samples, of one filter.")
        seen.add((outcome.suite, outcome.item_id))
    return Log(source=str(path), kind=kind, outcomes=tuple(one for one, _ in rows), units={one.suite: unit for one, unit in rows})


def _lines(path: Path) -> tuple[list[tuple[Outcome, str]], str]:
    rows, kind = [], "plain"
    for number, line in enumerate(path.read_text(encoding="utf-8-sig").split("\n"), 1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        try:
            row = json.loads(line)
        except ValueError as error:
            raise InputError(f"{where}: not JSON ({error}).") from error
        if not isinstance(row, dict):
            raise InputError(f"{where}: an object is needed.")
        if "doc_id" in row and "filtered_resps" in row:
            kind = "lm-eval"
            rows.append(lm_eval_outcome(row, _task_of(path), where))
        else:
            rows.append(_plain(row, path.stem, where))
    return rows, kind


def _task_of(path: Path) -> str:
    """`arc_easy` of `samples_arc_easy_2026-11-25T10-00-00.123.jsonl`."""
    found = re.fullmatch(r"samples_(.+?)(?:_\d{4}-\d\d-\d\dT[\d.-]+)?", path.stem)
    return found[1] if found else path.stem


def lm_eval_outcome(row: Mapping[str, Any], task: str, where: str) -> tuple[Outcome, str]:
    """A sample of lm-eval, as it logs it, as an outcome, with the unit of its value. where: what an error names. Raises InputError."""
    metrics = [name for name in row.get("metrics") or () if isinstance(row.get(name), int | float)]
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


def _per_unit(row: Mapping[str, Any]) -> tuple[float, str] | None:
    """Log-probability of a whole text for each of its words, or bytes, and the unit."""
    for name, unit in (("word_perplexity", "nats/word"), ("byte_perplexity", "nats/byte")):
        pair = row.get(name)
        if isinstance(pair, list | tuple) and len(pair) == 2 and pair[1]:
            return float(pair[0]) / float(pair[1]), unit
    return None


def _index(target: Any, n: int) -> int | None:
    """The right option's index, where the task names it by one."""
    text = str(target).strip()
    return int(text) if text.isdigit() and int(text) < n else None


def _plain(row: Mapping[str, Any], name: str, where: str) -> tuple[Outcome, str]:
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
    return _outcome(str(key), suite, str(row.get("cluster", key)), number, correct=flag, group=str(row.get("group", ""))), unit


def _inspect(path: Path) -> Iterator[tuple[Outcome, str]]:
    """Samples of an Inspect log, in JSON or its zip form; epochs of one sample share a cluster."""
    if path.suffix == ".eval":
        with zipfile.ZipFile(path) as archive:
            names = sorted(name for name in archive.namelist() if name.startswith("samples/") and name.endswith(".json"))
            samples: Sequence[Any] = [_json(archive.read(name).decode("utf-8"), f"{path}, {name}") for name in names]
            task = str(_json(archive.read("header.json").decode("utf-8"), f"{path}, header.json").get("eval", {}).get("task", path.stem))
    else:
        whole = _json(path.read_text(encoding="utf-8"), str(path))
        samples, task = whole.get("samples") or (), str(whole.get("eval", {}).get("task", path.stem))
    for number, sample in enumerate(samples, 1):
        scores = sample.get("scores") or {}
        if not scores:
            yield _outcome(f"{sample.get('id', number)}", task, f"{sample.get('id', number)}", None), "share"
            continue
        value = next(iter(scores.values())).get("value")
        grade = INSPECT_GRADES.get(value) if isinstance(value, str) else float(value) if isinstance(value, int | float) else None
        if grade is None:
            raise InputError(f"{path}, sample {sample.get('id', number)!r}: the score {value!r} is no grade and no number.")
        key = f"{sample.get('id', number)}/{sample.get('epoch', 1)}"
        yield _outcome(key, task, f"{sample.get('id', number)}", grade, correct=grade == 1.0 if grade in (0.0, 1.0) else None), "share"


def _json(text: str, where: str) -> Any:
    try:
        found = json.loads(text)
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
