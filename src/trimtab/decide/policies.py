"""Policies as files: read, checked and digested."""

import dataclasses
import math
import tomllib
from collections.abc import Mapping
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, get_args

from trimtab.core.errors import InputError
from trimtab.core.files import digest_of, to_plain
from trimtab.core.policy import GateKind, GateSpec, Policy
from trimtab.stats.sequential import nominal_alphas


def policy_names() -> list[str]:
    """Names of the policies that ship."""
    folder = resources.files("trimtab") / "catalog" / "policies"
    return sorted(entry.name.removesuffix(".toml") for entry in folder.iterdir() if entry.name.endswith(".toml"))


def load_policy(name_or_path: str | Path) -> Policy:
    """A shipped policy by name (`standard`, `strict`), or one from a TOML file (a path that ends in .toml).

    Raises InputError if there is none, the file cannot be read, or it does not describe a policy that can be judged by.
    """
    text, where = _read(str(name_or_path))
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"Policy {where} is not valid TOML: {error}.") from None
    gates = table.pop("gates", None)
    if not isinstance(gates, list) or not all(isinstance(gate, Mapping) for gate in gates):
        raise InputError(f"Policy {where} has no gates; write one [[gates]] table a gate.")
    looks = table.pop("looks", [1.0])
    if not isinstance(looks, list) or not all(type(share) in (int, float) for share in looks):
        raise InputError(f"Policy {where}: looks must be a list of shares such as [0.5, 1.0].")
    specs = tuple(_build(GateSpec, gate, f"{where}, gate {gate.get('name', '?')!r}") for gate in gates)
    policy: Policy = _build(Policy, {**table, "gates": specs, "looks": tuple(looks)}, where)
    check_policy(policy)
    return policy


def policy_of_document(document: Mapping[str, Any]) -> Policy:
    """The policy as a decision.json holds it, with its `sha256`. Raises InputError if it is not whole, or not the one of that digest."""
    where = "of decision.json"
    table = {key: value for key, value in document.items() if key != "sha256"}
    gates, looks = table.pop("gates", None), table.pop("looks", None)
    if not isinstance(gates, list) or not all(isinstance(gate, Mapping) for gate in gates) or not isinstance(looks, list):
        raise InputError(f"The policy {where} has no gates or no looks.")
    specs = tuple(_build(GateSpec, gate, f"{where}, gate {gate.get('name', '?')!r}") for gate in gates)
    policy: Policy = _build(Policy, {**table, "gates": specs, "looks": tuple(looks)}, where)
    if policy_sha256(policy) != document.get("sha256"):
        raise InputError(f"The policy {where} is not the one of its sha256.")
    check_policy(policy)
    return policy


def catalog_gate(suite: str) -> GateSpec | None:
    """The gate of a sub-suite that no policy names, from catalog/gates.toml; None if there is none."""
    table = _catalog_gates().get(suite)
    return None if table is None else _build(GateSpec, {"name": suite, "suite": suite, **table}, f"catalog, gate {suite!r}")


@cache
def _catalog_gates() -> dict[str, Any]:
    return tomllib.loads((resources.files("trimtab") / "catalog" / "gates.toml").read_text(encoding="utf-8"))


def policy_sha256(policy: Policy) -> str:
    """Digest of everything a policy says, reasons included: a changed margin is another policy."""
    plain = to_plain(policy)
    for gate in plain["gates"]:
        if not gate["bound"]:
            del gate["bound"]  # a gate that states none is what it was before there were any
    if policy.healing:
        del plain["healing"]  # so is a policy that does not forbid it
    return digest_of(plain)


def check_policy(policy: Policy) -> None:
    """Raises InputError for a policy that cannot be judged by: what is wrong, in which gate."""
    where = f"Policy {policy.name!r}"
    names = [gate.name for gate in policy.gates]
    if not any(gate.required for gate in policy.gates):
        raise InputError(f"{where} requires no gate, so everything would pass; set required = true on at least one.")
    if len(set(names)) != len(names):
        raise InputError(f"{where} has two gates of the same name; give each its own.")
    if policy.max_attempts < 1:
        raise InputError(f"{where}: max_attempts must be at least 1.")
    if not 0.0 < policy.alpha <= 0.5:
        raise InputError(f"{where}: alpha must lie above 0 and be at most 0.5, not {policy.alpha!r}.")
    if not 0.0 < policy.power < 1.0 or policy.noise_multiple < 1.0:
        raise InputError(f"{where}: power must lie between 0 and 1, and noise_multiple must be at least 1.")
    for gate in policy.gates:
        _check_gate(gate, where)
    nominal_alphas(policy.looks, policy.alpha / policy.max_attempts)


def _check_gate(gate: GateSpec, where: str) -> None:
    if gate.kind not in get_args(GateKind):
        raise InputError(f"{where}, gate {gate.name!r}: unknown kind {gate.kind!r}; the kinds are {', '.join(get_args(GateKind))}.")
    if gate.weight not in ("items", "tokens"):
        raise InputError(f"{where}, gate {gate.name!r}: weight must be `items` or `tokens`, not {gate.weight!r}.")
    if not 0.0 < gate.margin < math.inf:
        raise InputError(f"{where}, gate {gate.name!r}: the margin must be a number above zero; nothing can be shown to be exactly equal.")
    if not gate.reason.strip():
        raise InputError(f"{where}, gate {gate.name!r}: a margin needs a reason.")
    if gate.kind not in ("parity", "generation") and not gate.suite:
        raise InputError(f"{where}, gate {gate.name!r}: name the suite it reads.")
    if not 0.0 <= gate.bound < math.inf or 0.0 < gate.bound <= gate.margin:
        raise InputError(f"{where}, gate {gate.name!r}: the bound of a change must be larger than the margin, or 0 for ten margins.")
    if gate.min_clusters < 2:
        raise InputError(f"{where}, gate {gate.name!r}: min_clusters must be at least 2.")


def _read(name: str) -> tuple[str, str]:
    if name.endswith(".toml"):
        try:
            return Path(name).read_text(encoding="utf-8"), name
        except OSError as error:
            raise InputError(f"Policy file {name} cannot be read: {error.strerror or error}.") from None
        except UnicodeDecodeError:
            raise InputError(f"Policy file {name} is not UTF-8 text.") from None
    if name not in policy_names():
        raise InputError(f"Unknown policy {name!r}; the shipped ones are {', '.join(policy_names())}, or give a path that ends in .toml.")
    return (resources.files("trimtab") / "catalog" / "policies" / f"{name}.toml").read_text(encoding="utf-8"), name


def _build(kind: type[Any], values: Mapping[str, Any], where: str) -> Any:
    """A dataclass from a TOML table; names and types are checked, integers may stand for decimals."""
    fields = {field.name: field for field in dataclasses.fields(kind)}
    unknown = sorted(set(values) - set(fields))
    if unknown:
        raise InputError(f"Policy {where}: unknown key {unknown[0]!r}; the keys are {', '.join(sorted(fields))}.")
    lacking = [name for name, field in fields.items() if field.default is dataclasses.MISSING and name not in values]
    if lacking:
        raise InputError(f"Policy {where}: the key {lacking[0]!r} is missing.")
    clean = {name: _typed(fields[name].type, value, f"{where}: {name}") for name, value in values.items()}
    return kind(**clean)


def _typed(wanted: Any, value: Any, where: str) -> Any:
    if wanted is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if wanted in (float, int, str, bool) and type(value) is not wanted:
        raise InputError(f"Policy {where} must be a {wanted.__name__}, not {value!r}.")
    return value
