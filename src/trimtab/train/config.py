"""`train.toml`: read into a TrainConfig, checked as a whole, and written again. The tables and keys are those of core/training.py."""

import math
import tomllib
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from trimtab.core.errors import InputError
from trimtab.core.files import to_plain
from trimtab.core.toml import to_toml
from trimtab.core.training import TrainConfig

ELSEWHERE = "trimtab trains data-parallel (DDP, FSDP2); for {key} = {value} use `trimtab plan train --emit torchtitan` or `--emit megatron`"
SPLITS = ("tp", "pp", "vp", "cp", "ep")
"""Degrees of a planned layout that this trainer does not have; 1 means the same as not told."""
LESS_THAN_FP32 = ("fp16", "fp8", "mxfp8", "nvfp4")
HARDWARE = {"device": str, "n_devices": int}
WORDS: Mapping[Any, str] = {str: "a text", bool: "true or false", int: "a whole number", float: "a number"}


def read_config(path: Path) -> TrainConfig:
    """The configuration in a TOML file. Raises InputError that names the file, the key and what it must be."""
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"There is no {path}; see docs/train.md for what it holds.") from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InputError(f"{path} cannot be read as TOML ({error}); correct it.") from error
    return config_of(document, str(path))


def config_of(document: Mapping[str, Any], where: str = "train.toml") -> TrainConfig:
    """The configuration that these tables tell. where: what messages call them. Raises InputError."""
    hints = get_type_hints(TrainConfig)
    for name, table in document.items():
        if name not in hints:
            raise InputError(f"{where}: there is no table [{name}]; the tables are {', '.join(hints)}.")
        if not isinstance(table, dict):
            raise InputError(f"{where}: {name} must be a table: write [{name}] and its keys below it.")
    for field in fields(TrainConfig):
        if field.name not in document and field.default is MISSING and field.default_factory is MISSING:
            raise InputError(f"{where}: the table [{field.name}] is missing; see docs/train.md.")
    layout = _without_splits(document.get("layout", {}), where)
    tables = {**document, "layout": layout} if "layout" in document else dict(document)
    made = {name: _table(hints[name], name, tables[name], where) for name in tables}
    config = TrainConfig(**made)
    check(config, where)
    return config


def tables_of(settings: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Tables of settings that are told by their keys alone, each in the table that has it. Raises InputError for one that none has."""
    tables: dict[str, dict[str, Any]] = {}
    where = {key: table for table, kind in get_type_hints(TrainConfig).items() if is_dataclass(kind) for key in get_type_hints(kind)}
    for key, value in settings.items():
        if key not in where:
            raise InputError(f"There is no setting {key!r}; the settings are {', '.join(sorted(where))}.")
        tables.setdefault(where[key], {})[key] = list(value) if isinstance(value, tuple) else value
    return tables


def config_text(config: TrainConfig) -> str:
    """`train.toml` that `read_config` reads as this configuration. Every key is told, also those that have their usual value."""
    plain = to_plain(config)
    return to_toml({name: {key: value for key, value in table.items() if value != {}} for name, table in plain.items() if table})


def resolved(config: TrainConfig, world: int) -> TrainConfig:
    """The same with what `0` stands for filled in, on `world` processes: dp and grad_accum. Raises InputError for what does not divide."""
    run, dp = config.train, config.layout.dp or world
    if dp != world:
        raise InputError(f"[layout] dp = {dp}, but {world} process(es) were started; start {dp}, or leave dp out.")
    at_once = dp * run.micro_batch_seqs
    if run.global_batch_seqs % at_once:
        raise InputError(
            f"[train] global_batch_seqs = {run.global_batch_seqs} is not divisible by {dp} process(es) x micro_batch_seqs = "
            f"{run.micro_batch_seqs}; take a multiple of {at_once}, or other numbers of processes or sequences."
        )
    accum = run.global_batch_seqs // at_once
    if run.grad_accum not in (0, accum):
        raise InputError(
            f"[train] grad_accum = {run.grad_accum}, but global_batch_seqs = {run.global_batch_seqs} over {dp} process(es) of "
            f"{run.micro_batch_seqs} sequences takes {accum}; leave grad_accum out."
        )
    return replace(config, train=replace(run, grad_accum=accum), layout=replace(config.layout, dp=dp))


def _without_splits(layout: Any, where: str) -> dict[str, Any]:
    """[layout] without the degrees of a plan that say nothing here. Raises InputError for those that would split the model."""
    if not isinstance(layout, dict):
        return {}
    for key in SPLITS:
        if layout.get(key, 1) != 1:
            raise InputError(f"{where}: [layout] {ELSEWHERE.format(key=key, value=layout[key])}, or plan with --layout {key}=1.")
    if layout.get("zero_stage") == 1:
        raise InputError(f"{where}: [layout] {ELSEWHERE.format(key='zero_stage', value=1)}, or take zero_stage 0, 2 or 3.")
    if layout.get("sequence_parallel", False) is not False:
        raise InputError(f"{where}: [layout] {ELSEWHERE.format(key='sequence_parallel', value='true')}, or leave it out.")
    return {key: value for key, value in layout.items() if key not in (*SPLITS, "sequence_parallel")}


def _table(kind: Any, name: str, table: Mapping[str, Any], where: str) -> Any:
    if not is_dataclass(kind):
        return {key: _value(HARDWARE.get(key), name, key, value, where, tuple(HARDWARE)) for key, value in table.items()}
    hints = get_type_hints(kind)
    made = {key: _value(hints.get(key), name, key, value, where, tuple(hints)) for key, value in table.items()}
    for field in fields(kind):
        if field.name not in made and field.default is MISSING and field.default_factory is MISSING:
            raise InputError(f"{where}: [{name}] {field.name} is missing; see docs/train.md.")
    return kind(**made)  # type: ignore[operator]


def _value(kind: Any, table: str, key: str, value: Any, where: str, known: tuple[str, ...]) -> Any:
    """A value of TOML as the field's type. Whole numbers may be written as 3e11; one text may stand for a list of one."""
    if kind is None:
        raise InputError(f"{where}: [{table}] has no key {key!r}; its keys are {', '.join(known)}.")
    if get_origin(kind) is Literal:
        return _one_of(get_args(kind), table, key, value, where)
    if get_origin(kind) is tuple:
        values = [value] if isinstance(value, str) else value
        if isinstance(values, list) and all(isinstance(one, str) for one in values):
            return tuple(values)
        raise InputError(f"{where}: [{table}] {key} must be a list of texts, not {value!r}.")
    if get_origin(kind) is not None:
        if isinstance(value, dict) and all(isinstance(one, str) for one in value.values()):
            return value
        raise InputError(f"{where}: [{table}.{key}] must be a table of texts, not {value!r}.")
    if kind is int and isinstance(value, float) and value.is_integer():
        return int(value)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, kind) or (kind is not bool and isinstance(value, bool)):
        raise InputError(f"{where}: [{table}] {key} must be {WORDS[kind]}, not {value!r}.")
    return value


def _one_of(choices: tuple[Any, ...], table: str, key: str, value: Any, where: str) -> Any:
    if isinstance(value, (str, int)) and not isinstance(value, bool) and value in choices:
        return value
    if (table, key) == ("train", "precision") and value in LESS_THAN_FP32:
        raise InputError(f"{where}: [train] {ELSEWHERE.format(key=key, value=value)}, or take {', '.join(choices)}.")
    raise InputError(f"{where}: [{table}] {key} must be one of {', '.join(str(one) for one in choices)}, not {value!r}.")


def check(config: TrainConfig, where: str = "train.toml") -> None:
    """Raises InputError for the first number that cannot be, or the first two keys that cannot be together."""
    for name, table in ((field.name, getattr(config, field.name)) for field in fields(config)):
        for key, value in vars(table).items() if is_dataclass(table) else table.items():
            _check_number(name, key, value, where)
    for is_wrong, words in _contradictions(config):
        if is_wrong:
            raise InputError(f"{where}: {words}")


AT_LEAST_ONE = ("seq_tokens", "global_batch_seqs", "micro_batch_seqs", "spike_window", "n_devices", "keep")
ABOVE_ZERO = ("lr", "eps", "spike_factor", "lora_alpha")
SHARES = ("beta1", "beta2", "decay_share", "end_lr_share", "text_share")


def _check_number(table: str, key: str, value: Any, where: str) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return
    least = 1 if key in AT_LEAST_ONE else 0
    if not math.isfinite(value) or value < least:
        raise InputError(f"{where}: [{table}] {key} must be {least} or more, not {value}.")
    if key in ABOVE_ZERO and value == 0:
        raise InputError(f"{where}: [{table}] {key} must be above 0.")
    if key in SHARES and (value > 1 or (key.startswith("beta") and value == 1)):
        raise InputError(f"{where}: [{table}] {key} must be {'below' if key.startswith('beta') else 'at most'} 1, not {value}.")


def _contradictions(config: TrainConfig) -> list[tuple[bool, str]]:
    model, run, optimizer, objective = config.model, config.train, config.optimizer, config.objective
    ends = [name for name in ("tokens", "steps", "epochs") if getattr(run, name)]
    at_once = max(config.layout.dp, 1) * run.micro_batch_seqs
    distil = objective.kind == "distil"
    return [
        (not model.source.strip(), "[model] source is empty; name a model."),
        (not config.data.files or not all(one.strip() for one in config.data.files), "[data] files names no data; give paths or patterns."),
        (len(ends) != 1, f"[train] takes exactly one of tokens, steps and epochs; {' and '.join(ends) if ends else 'none'} is given."),
        (run.seq_tokens < 2, "[train] seq_tokens must be 2 or more: a token is predicted from those before it."),
        (
            run.global_batch_seqs % at_once != 0,
            f"[train] global_batch_seqs = {run.global_batch_seqs} is not divisible by dp x micro_batch_seqs = {at_once}.",
        ),
        (model.init == "random" and model.lora_rank > 0, "[model] init = random with lora_rank: adapters beside random weights that stay."),
        (bool(model.lora_targets) and model.lora_rank == 0, "[model] lora_targets needs a lora_rank above 0."),
        (run.precision == "fp64" and optimizer.name == "adamw8bit", "[optimizer] adamw8bit rounds its states; fp64 would be for nothing."),
        (
            run.offload and config.layout.zero_stage == 0,
            "[train] offload needs [layout] zero_stage 2 or 3: only shards are kept on the host.",
        ),
        (distil and not objective.teacher.strip(), "[objective] kind = distil needs a teacher."),
        *(
            (not distil and bool(getattr(objective, key)), f"[objective] {key} is of a teacher; take kind = distil, or leave it out.")
            for key in ("teacher", "top_k", "text_share")
        ),
        (objective.kind != "paired" and objective.pair_weight > 0, "[objective] pair_weight is of pairs; take kind = paired."),
    ]
