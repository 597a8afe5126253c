"""Licences of what a lock serves, read from what lies here: headers, model cards, the Hugging Face cache. Nothing is fetched for it."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trimtab.core.errors import TrimtabError
from trimtab.core.release import Licence
from trimtab.decide.licences import licence_chain
from trimtab.record.deploy import DeployLock
from trimtab.record.home import cache_dir
from trimtab.sources.open import open_source, read_header

MAX_CARD_BYTES = 4 << 20


def licences_of(lock: DeployLock, lock_path: Path) -> tuple[Licence, ...]:
    """The model of a lock and those it was made from, then its draft and those that one was made from; unknown where nothing here tells."""
    chain = _chain_of(lock.source, lock_path, lock.source_sha256)
    if lock.settings.draft:
        chain += _chain_of(lock.settings.draft, lock_path, "")
    found: dict[str, Licence] = {}
    for one in chain:
        found.setdefault(one.model, one)
    return tuple(found.values())


def _chain_of(source: str, lock_path: Path, wanted_sha256: str) -> tuple[Licence, ...]:
    """wanted_sha256: digest that the snapshot must have to be the one that was judged; empty = any"""
    from trimtab.flows.parts.locked import found_source  # loads all that builds a deployment, which showing a release must not

    try:
        snapshot = open_source(found_source(source, lock_path), cache_dir=cache_dir(), offline=True)
        if wanted_sha256 and snapshot.digest != wanted_sha256:
            return (Licence(model=source, licence=""),)
        header = read_header(snapshot)
    except (TrimtabError, OSError):
        return (Licence(model=source, licence=""),)
    card = _card(snapshot.root / "README.md") if snapshot.format != "gguf" or source.startswith("hf:") else {}
    where = "general.license of the GGUF header" if header.metadata.get("general.license") else "its model card"
    return licence_chain(source, {**card, **{key: value for key, value in header.metadata.items() if value}}, where, _in_hub_cache)


def _in_hub_cache(model: str) -> tuple[Mapping[str, Any], str]:
    """The card of `org/name` if the Hugging Face cache has it."""
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*/[\w.-]+", model):
        return {}, ""
    from huggingface_hub import try_to_load_from_cache

    try:
        found = try_to_load_from_cache(model, "README.md")
    except ValueError:  # no name that the hub would take
        return {}, ""
    return (_card(Path(found)), "its model card in the Hugging Face cache") if isinstance(found, str) else ({}, "")


def _card(path: Path) -> Mapping[str, Any]:
    """Metadata at the top of a model card, empty where there are none that can be read."""
    from huggingface_hub import metadata_load
    from yaml import YAMLError

    try:
        if path.stat().st_size > MAX_CARD_BYTES:
            return {}
        return metadata_load(path) or {}
    except (OSError, ValueError, YAMLError, RecursionError):
        return {}
