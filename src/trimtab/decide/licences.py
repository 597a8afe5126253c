"""The licence gate: every model of a base-model chain under a licence that the rules allow. Unknown is inconclusive, and does not pass."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from trimtab.core.release import Licence

MAX_CHAIN = 16
UNKNOWN = ("", "other", "unknown", "none", "noassertion")
"""What model cards say where they do not name one."""
_GGUF_BASE = re.compile(r"general\.base_model\.(\d+)\.(repo_url|organization|name)")

FindCard = Callable[[str], tuple[Mapping[str, Any], str]]
"""Metadata of a base model by its name, and where they were read; empty where there are none at hand."""


def licence_of(metadata: Mapping[str, Any]) -> str:
    """The licence that a header or a model card names, empty if it names none."""
    for key in ("general.license", "licence", "license"):
        value = metadata.get(key)
        if isinstance(value, list) and len(value) == 1:
            value = value[0]
        if isinstance(value, str) and value.strip():
            named = metadata.get("general.license.name") or metadata.get("license_name")
            found = named if value.strip().lower() == "other" and isinstance(named, str) and named else value
            return "".join(letter for letter in found[:80] if letter.isprintable()).strip()
    return ""


def bases_of(metadata: Mapping[str, Any]) -> tuple[str, ...]:
    """Names of the models that this one was made from, as its header or card has them."""
    card = metadata.get("base_model")
    named = [card] if isinstance(card, str) else card if isinstance(card, list) else []
    found = [one.strip() for one in named if isinstance(one, str) and one.strip()]
    parts: dict[int, dict[str, str]] = {}
    for key, value in metadata.items():
        match = _GGUF_BASE.fullmatch(str(key))
        if match and isinstance(value, str) and value.strip():
            parts.setdefault(int(match[1]), {})[match[2]] = value.strip()
    for _, one in sorted(parts.items()):
        url = re.fullmatch(r"https?://[^/]+/([^/\s]+/[^/\s]+?)/?", one.get("repo_url", ""))
        found.append(url[1] if url else "/".join(one[key] for key in ("organization", "name") if key in one))
    return tuple(dict.fromkeys("".join(letter for letter in one[:200] if letter.isprintable()) for one in found if one))


def licence_chain(model: str, metadata: Mapping[str, Any], source: str, find: FindCard) -> tuple[Licence, ...]:
    """The model and all it was made from, as far as names lead; those nobody can look up have no licence.

    metadata: of the model's header or card; source: where they were read
    """
    chain: dict[str, Licence] = {}
    pending: list[tuple[str, Mapping[str, Any], str]] = [(model, metadata, source)]
    while pending and len(chain) < MAX_CHAIN:
        name, known, where = pending.pop(0)
        if name in chain:
            continue
        licence = licence_of(known)
        chain[name] = Licence(model=name, licence=licence, source=where if licence else "")
        pending += [(base, *find(base)) for base in bases_of(known) if base not in chain]
    return tuple(chain.values())


def with_said(licences: Sequence[Licence], said: Mapping[str, str], *, by: str, source: str) -> tuple[Licence, ...]:
    """Licences with what a person says of some models; a model that the chain lacks is added. said: model -> SPDX id."""
    where = f"said by {by}" + (f": {source}" if source else "")
    known = {one.model: one for one in licences}
    for model, licence in said.items():
        known[model] = replace(known.get(model, Licence(model=model, licence="")), licence=licence, source=where)
    return tuple(known.values())


def licence_gaps(licences: Sequence[Licence], allowed: Sequence[str], unknown: str) -> tuple[str, ...]:
    """Why a chain does not pass, one sentence a model; empty = it passes. unknown: what Rules.licence_unknown says."""
    if not licences:
        return () if unknown == "allow" else ("Nothing is known of its licence.",)
    names = {one.casefold() for one in allowed}
    gaps = []
    for one in licences:
        if one.licence.strip().casefold() in UNKNOWN:
            if unknown != "allow":
                gaps.append(f"The licence of {one.model} is unknown.")
        elif one.licence.strip().casefold() not in names:
            gaps.append(f"The licence of {one.model}, {one.licence}, is not among those that the rules allow.")
    return tuple(gaps)
