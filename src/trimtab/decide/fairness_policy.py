"""Policies of `trimtab fairness` as files: how large a gap between groups may be, and how many cases it takes to tell."""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Literal, get_args

from trimtab.core.errors import InputError
from trimtab.core.files import digest_of

Metric = Literal[
    "selection_rate",
    "tpr",
    "fpr",
    "ppv",
    "accuracy",
    "equalised_odds",
    "calibration",
    "counterfactual",
    "selection_rate_change",
    "equalised_odds_change",
]
Required = Literal["always", "without_label", "never"]
SmallGroups = Literal["cannot tell", "leave out"]


@dataclass(frozen=True, kw_only=True)
class GapSpec:
    """One gate: no two groups may differ in `metric` by more than max_gap (0..1).

    `equalised_odds` is TPR and FPR together; a `..._change` is about each group's change against the others between two decisions
    required: whether the joint answer depends on it (`without_label`: only where there is no label)
    """

    metric: Metric
    max_gap: float
    reason: str
    required: Required = "always"

    @property
    def is_change(self) -> bool:
        return self.metric.endswith("_change")


@dataclass(frozen=True, kw_only=True)
class FairnessPolicy:
    """alpha: one-sided error of a bound; min_group: cases in a rate's denominator; min_pairs: counterfactual pairs."""

    name: str
    version: str
    gates: tuple[GapSpec, ...]
    alpha: float = 0.05
    min_group: int = 30
    min_pairs: int = 60
    small_groups: SmallGroups = "cannot tell"

    @property
    def digest(self) -> str:
        """Of everything it says, reasons included."""
        return digest_of(self)


def load_fairness_policy(name_or_path: str | Path) -> FairnessPolicy:
    """`standard`, `strict`, or a TOML file (a path that ends in .toml). Raises InputError if it is none that can be judged by."""
    name = str(name_or_path)
    folder = resources.files("trimtab") / "catalog" / "fairness"
    shipped = sorted(entry.name.removesuffix(".toml") for entry in folder.iterdir() if entry.name.endswith(".toml"))
    try:
        if name.endswith(".toml"):
            text = Path(name).read_text(encoding="utf-8")
        elif name in shipped:
            text = (folder / f"{name}.toml").read_text(encoding="utf-8")
        else:
            raise InputError(
                f"Unknown fairness policy {name!r}; the shipped ones are {', '.join(shipped)}, or give a path that ends in .toml."
            )
        table = tomllib.loads(text)
    except OSError as error:
        raise InputError(f"Policy file {name} cannot be read: {error.strerror or error}.") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"Policy {name} is not valid TOML: {error}.") from None
    return _policy(table, name)


def _policy(table: dict[str, Any], where: str) -> FairnessPolicy:
    gates = table.pop("gates", None)
    if not isinstance(gates, list) or not gates or not all(isinstance(gate, Mapping) for gate in gates):
        raise InputError(f"Policy {where} has no gates; write one [[gates]] table a gate.")
    specs = tuple(_gate(gate, where) for gate in gates)
    for key in table:
        if key not in ("name", "version", "alpha", "min_group", "min_pairs", "small_groups"):
            raise InputError(f"Policy {where}: unknown key {key!r}.")
    if not all(isinstance(table.get(key), str) and table[key] for key in ("name", "version")):
        raise InputError(f"Policy {where} needs a name and a version, both texts.")
    policy = FairnessPolicy(**table, gates=specs)
    if not _is_number(policy.alpha) or not 0.0 < policy.alpha <= 0.5:
        raise InputError(f"Policy {where}: alpha must lie above 0 and be at most 0.5, not {policy.alpha!r}.")
    for key, least in (("min_group", 1), ("min_pairs", 2)):
        value = getattr(policy, key)
        if type(value) is not int or value < least:
            raise InputError(f"Policy {where}: {key} must be a whole number of at least {least}, not {value!r}.")
    if policy.small_groups not in get_args(SmallGroups):
        raise InputError(f"Policy {where}: small_groups must be one of {', '.join(get_args(SmallGroups))}, not {policy.small_groups!r}.")
    names = [gate.metric for gate in specs]
    if len(set(names)) != len(names):
        raise InputError(f"Policy {where} has two gates of one metric.")
    if all(gate.required == "never" for gate in specs):
        raise InputError(f"Policy {where} requires no gate, so everything would pass.")
    return policy


def _gate(values: Mapping[str, Any], where: str) -> GapSpec:
    metric: Any = values.get("metric")
    if metric not in get_args(Metric):
        raise InputError(f"Policy {where}: unknown metric {metric!r}; the metrics are {', '.join(get_args(Metric))}.")
    unknown = sorted(set(values) - {"metric", "max_gap", "reason", "required"})
    if unknown:
        raise InputError(f"Policy {where}, gate {metric}: unknown key {unknown[0]!r}.")
    gap: Any = values.get("max_gap")
    if not _is_number(gap) or not 0.0 < gap < 1.0:
        raise InputError(f"Policy {where}, gate {metric}: max_gap must lie between 0 and 1, not {gap!r}.")
    reason = values.get("reason")
    if not isinstance(reason, str) or not reason.strip():
        raise InputError(f"Policy {where}, gate {metric}: a gap needs a reason.")
    required = values.get("required", "always")
    if required not in get_args(Required):
        raise InputError(f"Policy {where}, gate {metric}: required must be one of {', '.join(get_args(Required))}, not {required!r}.")
    return GapSpec(metric=metric, max_gap=float(gap), reason=reason, required=required)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
