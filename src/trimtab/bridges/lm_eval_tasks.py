"""Tasks of lm-evaluation-harness inside `trimtab evaluate`: `--suite lm-eval:arc_easy,bbq`. lm-eval asks and judges, trimtab pairs.

Every task is a sub-suite. Value of an item: as of lm-eval's logs (evaluate/logs.py). lm-eval is no part of trimtab and is loaded here only
when its tasks are asked for.
"""

import contextlib
import hashlib
import importlib.util
import itertools
import json
import logging
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from difflib import get_close_matches
from functools import partial
from typing import Any

from trimtab.core.deployment import Candidate
from trimtab.core.errors import InputError, MissingError, TrimtabError
from trimtab.core.evidence import Item, Outcome
from trimtab.evaluate.logs import asked_item, lm_eval_outcome
from trimtab.flows.parts.outside import Progress

PACKAGE = "lm-eval==0.4.13"
SEED = 1234
"""lm-eval's own for the examples before a question."""
SHARED = (("category", "question_index"), ("passage",), ("article",), ("story",))
"""Fields of a document that say of which template or passage it is; documents that agree in them are one cluster."""


class LmEvalTasks:
    """What the entry point `lm-eval` of trimtab.outside names; see flows/parts/outside.py.

    text: names of tasks, groups or tags, or YAML files of tasks, with commas; `?limit=200`: so many documents of each task, drawn by hash
    offline: no hub is asked. Raises InputError, MissingError.
    """

    def __init__(self, text: str, *, offline: bool = False) -> None:
        names, limit = _parsed(text)
        self.name = f"lm-eval:{text}"
        self._tasks = _loaded(names, offline=offline)
        self._samples = {name: _drawn(name, len(task.eval_docs), limit) for name, task in self._tasks.items()} if limit else None
        self._clusters: dict[str, str] = {}
        self.items: dict[str, Item] = {}
        for name in self._tasks:
            self._read(name)
        import lm_eval

        self.version = f"lm-eval {lm_eval.__version__}"
        self.digest = self._identity()

    def _read(self, name: str) -> None:
        """Items and clusters of a task, from what it will ask."""
        task = self._tasks[name]
        task.set_fewshot_seed(seed=SEED)
        with _sentences(f"The task {name!r} of lm-eval"), _quiet():
            task.build_all_requests(samples=self._samples[name] if self._samples else None)
        for doc_id, group in itertools.groupby(task.instances, key=lambda one: one.doc_id):
            asked = list(group)
            key = f"{name}/{self._samples[name][doc_id] if self._samples else doc_id}"
            self._clusters[key] = _cluster(name, asked[0].doc, key)
            target = _target(task, asked[0].doc)
            self.items[key] = asked_item(key, name, self._clusters[key], [one.args for one in asked], partial(_right, target))

    def _identity(self) -> str:
        asked = [[one.request_type, one.args] for task in self._tasks.values() for one in task.instances]
        rules = [task.dump_config() for task in self._tasks.values()]
        plain = json.dumps([self.version, list(self._tasks), rules, asked], default=str, sort_keys=True)
        return hashlib.sha256(re.sub(r" at 0x[0-9a-f]+", "", plain).encode()).hexdigest()

    def score(self, candidate: Candidate, on_progress: Progress) -> tuple[Sequence[Outcome], Mapping[str, str]]:
        """Outcomes on all items, and the unit of each task's values. Raises InputError, InfeasibleError."""
        from lm_eval.evaluator import evaluate

        from trimtab.bridges.lm_eval import CandidateLM

        total = sum(len(task.instances) for task in self._tasks.values())
        n_done = 0

        def on_done(n: int) -> None:
            nonlocal n_done
            n_done = min(total, n_done + n)
            on_progress(n_done, total)

        for task in self._tasks.values():
            task.set_fewshot_seed(seed=SEED)  # both sides see the same examples
        with contextlib.closing(CandidateLM(candidate, is_guest=True, on_done=on_done)) as lm, _sentences(self.name), _quiet():
            found = evaluate(
                lm=lm,
                task_dict={"tasks": self._tasks, "groups": {}, "group_map": {}},
                samples=self._samples,
                bootstrap_iters=0,
                log_samples=True,
            )
        outcomes: list[Outcome] = []
        units: dict[str, str] = {}
        for name, samples in found["samples"].items():
            of_task = list(self._outcomes(name, samples))
            outcomes += [outcome for outcome, _ in of_task]
            units[name] = of_task[0][1]
        return outcomes, units

    def _outcomes(self, name: str, samples: Sequence[Mapping[str, Any]]) -> Iterator[tuple[Outcome, str]]:
        """Of a task whose answers are filtered in several ways, by the first of them."""
        for sample in samples:
            if sample["filter"] != samples[0]["filter"]:
                continue
            key = f"{name}/{sample['doc_id']}"
            item = self.items[key]
            right = item.answer if item.scorer == "margin" else sample["target"]
            outcome, unit = lm_eval_outcome({**sample, "target": right}, name, f"{self.name}, {key}")
            yield replace(outcome, item_id=key, cluster=self._clusters[key]), unit


def _parsed(text: str) -> tuple[list[str], int]:
    """(names of tasks, documents of each: 0 = all)."""
    listed, _, query = text.partition("?")
    names = [name for name in listed.split(",") if name]
    if not names:
        raise InputError("Name tasks of lm-eval, such as --suite lm-eval:arc_easy,bbq.")
    key, _, value = query.partition("=")
    if query and (key != "limit" or not value.isdecimal() or int(value) < 1):
        raise InputError(f"After the tasks of lm-eval may stand ?limit=N, the number of documents of each, not {query!r}.")
    return names, int(value or 0)


@contextlib.contextmanager
def _environment(settings: Mapping[str, str]) -> Iterator[None]:
    """Variables that lm-eval and its libraries read, as they were again afterwards."""
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _loaded(names: Sequence[str], *, offline: bool) -> dict[str, Any]:
    """Tasks by name, groups and tags taken apart."""
    if importlib.util.find_spec("lm_eval") is None:
        raise MissingError("Tasks of lm-eval need lm-eval, which is no part of trimtab.", f"pip install {PACKAGE}")
    settings = {"TQDM_DISABLE": "1"}  # its bars would run through ours
    if offline:
        settings |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
    found: dict[str, Any] = {}
    with _environment(settings):
        from lm_eval.tasks import TaskManager

        known = TaskManager()
        for name in names:
            if not name.endswith((".yaml", ".yml")) and name not in known.all_tasks:
                near = get_close_matches(name, known.all_tasks, n=3)
                raise InputError(f"lm-eval has no task {name!r}{'; near it are ' + ', '.join(near) if near else ''}.")
            with _sentences(f"The task {name!r} of lm-eval", loading=True), _quiet():
                found |= known.load([name])["tasks"]
    for task in found.values():
        if task.get_config("num_fewshot") is None:
            task.set_config(key="num_fewshot", value=0)
    return found


@contextlib.contextmanager
def _sentences(what: str, *, loading: bool = False) -> Iterator[None]:
    """Whatever goes wrong in lm-eval, its tasks and its data, as one sentence."""
    try:
        yield
    except TrimtabError:
        raise
    except Exception as error:  # tasks are code of their own and may raise anything
        said = f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else 'no message'}"
        if loading:
            raise MissingError(
                f"{what} cannot be loaded with its data ({said}).",
                "connect to the hub once, so that the data is cached, or name a YAML file whose data_files lie here",
            ) from error
        raise InputError(f"{what} cannot be run ({said}).") from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Less talk of lm-eval and of the library of its data."""
    loggers = [logging.getLogger(name) for name in ("lm_eval", "datasets", "huggingface_hub", "httpx")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _drawn(name: str, n: int, limit: int) -> list[int]:
    """Numbers of `limit` documents of n, in order: a fair sample, the same every time."""
    by_hash = sorted(range(n), key=lambda number: hashlib.sha256(f"{name}\0{number}".encode()).digest())
    return sorted(by_hash[:limit])


def _cluster(task: str, doc: Any, key: str) -> str:
    for fields in SHARED:
        if isinstance(doc, dict) and all(field in doc for field in fields):
            said = json.dumps([doc[field] for field in fields], default=str)
            return f"{task}/{hashlib.sha256(said.encode()).hexdigest()[:12]}"
    return key


def _target(task: Any, doc: Any) -> Any:
    with _sentences(f"The task {task.config.task!r} of lm-eval"):
        return task.doc_to_target(doc)


def _right(target: Any, options: Sequence[str]) -> int | None:
    """The right option's index, where the task names it by its index or by its text."""
    if isinstance(target, int) and not isinstance(target, bool):
        return target if 0 <= target < len(options) else None
    stripped = [option.strip() for option in options]
    if isinstance(target, str) and target.strip() in stripped:
        return stripped.index(target.strip())
    return int(target) if isinstance(target, str) and target.strip().isdecimal() and int(target) < len(options) else None
