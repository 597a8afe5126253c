"""What a model is made of and what a token of it costs, from headers of models that runs were about; and answers looked at closely."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from trimtab.core.errors import TrimtabError
from trimtab.core.files import digest_of
from trimtab.core.phrases import count, line, megabytes, significant
from trimtab.describe.card import card_rows
from trimtab.flows.describe import Description, describe
from trimtab.record.closely import PAGES
from trimtab.web.runs_view import KEY_DIGITS

CONTEXTS = (512, 2048, 8192, 32768, 131072)
TENSORS = 100
"""Tensors of a page."""
BAR = 200.0
"""Length of the longest bar, in units of its own box."""
MOST_BYTES = 8 * 2**20


@dataclass(frozen=True, kw_only=True)
class Source:
    """A model that runs were about. runs: (key, name) of these runs"""

    key: str
    spec: str
    runs: tuple[tuple[str, str], ...]


@dataclass(frozen=True, kw_only=True)
class LayerLine:
    """A run of equal layers. bar: length of its bytes, all its layers together"""

    name: str
    kind: str
    n: str
    params: str
    size: str
    whole: str
    types: str
    parts: str
    bar: float


@dataclass(frozen=True, kw_only=True)
class CostLine:
    """What one more token costs after `context` tokens: billions of operations, weights and cache read; the cache kept by then"""

    context: str
    gflop: str
    read: str
    cache: str
    cache_share: str


@dataclass(frozen=True, kw_only=True)
class ModelView:
    spec: str
    name: str
    facts: tuple[tuple[str, str, str], ...]
    costs: tuple[CostLine, ...]
    layers: tuple[LayerLine, ...]
    tensors: tuple[tuple[str, str, str, str], ...]
    page: int
    n_pages: int
    n_tensors: int
    template: str


@dataclass(frozen=True, kw_only=True)
class Close:
    """An answer that was looked at closely. kind: `why` or `beside`; title: what was asked, shortened"""

    key: str
    kind: str
    title: str
    model: str
    path: Path


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What a run was asked. key: of its address"""

    key: str
    path: Path
    inputs: Mapping[str, Any]
    started: str


def sources_of(runs: Sequence[Asked]) -> list[Source]:
    """Models that runs were about, in the order of the runs."""
    found: dict[str, list[tuple[str, str]]] = {}
    for run in runs:
        for spec in _specs(run.inputs):
            found.setdefault(spec, []).append((run.key, line(run.path.name)))
    return [Source(key=digest_of(spec)[:KEY_DIGITS], spec=spec, runs=tuple(of)) for spec, of in found.items()]


def _specs(inputs: Mapping[str, Any]) -> list[str]:
    """Sources that were named, without engine and settings."""
    named = [str(inputs[name]) for name in ("model", "a", "b", "reference") if inputs.get(name)]
    return list(dict.fromkeys(_bare(spec) for spec in named))


@lru_cache(maxsize=4096)
def _bare(spec: str) -> str:
    from trimtab.core.deployment import parse_spec
    from trimtab.engines.registry import engine_names

    try:
        return str(parse_spec(spec, engine_names()).source)
    except TrimtabError:
        return spec


@lru_cache(maxsize=16)
def described(spec: str) -> Description:
    """From what is at hand; nothing is fetched. Raises InputError, MissingError."""
    return describe(spec, offline=True)


def model_view(found: Description, page: int = 1) -> ModelView:
    """The card in tables. page: of the tensors"""
    card, tensors = found.card, found.header.tensors
    n_pages = max(1, -(-len(tensors) // TENSORS))
    page = min(max(1, page), n_pages)
    longest = max((row.n_layers * row.size_bytes for row in found.layers), default=0) or 1
    return ModelView(
        spec=line(found.snapshot.source),
        name=line(card.name),
        facts=tuple((row.label, line(row.value), line(row.note)) for row in card_rows(card)),
        costs=tuple(_cost(found, context) for context in _contexts(card.context_tokens)),
        layers=tuple(
            LayerLine(
                name=line(row.name),
                kind=line(row.kind),
                n=str(row.n_layers),
                params=count(row.n_params),
                size=size_text(row.size_bytes),
                whole=size_text(row.n_layers * row.size_bytes),
                types=line(row.types),
                parts=", ".join(f"{line(part)} {params_text(n)}" for part, n in row.n_params_by_part.items()),
                bar=round(BAR * row.n_layers * row.size_bytes / longest, 1),
            )
            for row in found.layers
        ),
        tensors=tuple(
            (line(one.name), " × ".join(map(str, one.shape)), line(one.type_name), size_text(one.size_bytes))
            for one in tensors[(page - 1) * TENSORS : page * TENSORS]
        ),
        page=page,
        n_pages=n_pages,
        n_tensors=len(tensors),
        template=found.header.chat_template,
    )


def size_text(n_bytes: float) -> str:
    """`2.3 kB`, from a million bytes on as megabytes."""
    return f"{significant(n_bytes / 1e3)} kB" if n_bytes < 1e6 else megabytes(n_bytes)


def params_text(n: float) -> str:
    """A number of parameters: `3.54 M`."""
    return f"{significant(n / 1e6)} M" if n >= 1e6 else f"{significant(n / 1e3)} k"


def _contexts(most: int) -> list[int]:
    within = [context for context in CONTEXTS if not most or context < most]
    return [*within, most] if most else within


def _cost(found: Description, context: int) -> CostLine:
    card = found.card
    cache = card.kv_bytes(context)
    read = card.decode_bytes_per_token + cache
    return CostLine(
        context=count(context),
        gflop=f"{significant((card.flops_per_token + context * card.attn_flops_per_token_per_context_token) / 1e9)} GFLOP",
        read=megabytes(read),
        cache=megabytes(cache),
        cache_share=f"{100 * cache / read:.0f} %" if read else "",
    )


def closely_kept(folders: Sequence[Path], places: Sequence[Path]) -> list[Close]:
    """why.json and beside.json in the folders of runs, in the folders above them, and one level below those."""
    found: dict[Path, Close] = {}
    around = [*places, *folders, *(path for folder in folders if folder.is_dir() for path in sorted(folder.iterdir()) if path.is_dir())]
    for folder in around:
        for kind in PAGES.values():
            path = (folder / f"{kind}.json").resolve()
            if path not in found and (document := read_closely(path)) is not None:
                found[path] = _close(path, kind, document)
    return list(found.values())


def _close(path: Path, kind: str, document: Mapping[str, Any]) -> Close:
    model = str(document.get("model") or " against ".join(str(document.get(side, "")) for side in "ab"))
    prompt = document.get("prompt") or "".join(str(span.get("text", "")) for span in document.get("spans") or ())
    return Close(key=digest_of(str(path))[:KEY_DIGITS], kind=kind, title=line(prompt, 90), model=line(model), path=path)


def read_closely(path: Path) -> dict[str, Any] | None:
    """The document; None where there is none that this version can show."""
    try:
        if not path.is_file() or path.stat().st_size > MOST_BYTES:
            return None
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) and found.get("schema") in PAGES else None
