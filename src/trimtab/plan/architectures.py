"""Shapes of well-known open models by name: one TOML each in catalog/architectures. Any described model has one (`describe.shape`)."""

import dataclasses
import difflib
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from trimtab.core.errors import InputError
from trimtab.core.planning import Architecture, Attention, Block, Feedforward

ARCHITECTURES_FOLDER = Path(__file__).parent.parent / "catalog" / "architectures"

# What follows a model's name without changing its shape: tuning, stored type, date of a revision, benchmark's accuracy target.
_SUFFIX = re.compile(
    r"instruct|it|chat|base|hf|pt|thinking|preview|dynamic|gguf|awq|gptq|mlx|exp|fp8|fp4|nvfp4|mxfp4|bf16|fp16|f16|int4|int8|w\d+a\d+|\d+bit|"
    r"i?q\d[\w]*|99|99\.9|\d{4}|v0\.\d|v\d|mtp|block|e4m3|kv|tp\d+|offline|server|interactive|qat|deduped|sft|dpo|\d+k|1m"
)
_MAKERS = frozenset({"meta", "nvidia", "openai", "google", "mistralai", "microsoft", "qwen", "ibm", "tiiuae", "eleutherai", "deepseek"})


@dataclass(frozen=True, kw_only=True)
class CatalogEntry:
    """One file of the catalog.

    verified: the shape was read at the source itself, not from memory or inferred
    published_params, published_active_params: as the maker states them, rounded as they are; 0 = not stated
    """

    architecture: Architecture
    verified: bool
    published_params: int = 0
    published_active_params: int = 0


def entries() -> tuple[CatalogEntry, ...]:
    """The whole catalog, by name."""
    return tuple(_catalog().values())


def architectures() -> tuple[Architecture, ...]:
    """Every shape of the catalog, by name."""
    return tuple(entry.architecture for entry in entries())


def architecture(name: str) -> Architecture:
    """The catalog's shape of a model. Case, separators, makers and endings such as `-Instruct`, `-FP8` or `-0528` do not matter.

    Raises InputError with near names.
    """
    found = find_architecture(name)
    if found is not None:
        return found
    near = near_names(name)
    hint = f" near names: {', '.join(near)}." if near else " `trimtab plan models` lists the known ones."
    raise InputError(f"No architecture of the catalog is called {name!r};{hint}")


def find_architecture(name: str) -> Architecture | None:
    """As `architecture`, None where the catalog has no such model."""
    known = _by_key()
    for key in _keys(name):
        if key in known:
            found = _catalog()[known[key]].architecture
            return dataclasses.replace(found, predict_layers=0) if "w/o mtp" in name.lower() else found
    return None


def near_names(name: str, count: int = 3) -> tuple[str, ...]:
    """Catalog names that a mistyped name may mean, best first."""
    known = _by_key()
    keys = _keys(name)
    close = difflib.get_close_matches(keys[-1] if keys else "", known, n=3 * count, cutoff=0.6)
    return tuple(dict.fromkeys(known[key] for key in close))[:count]


def architecture_from_shape(
    *,
    d_model: int,
    n_layers: int,
    n_heads: int,
    n_kv_heads: int = 0,
    head_dim: int = 0,
    d_ff: int = 0,
    vocab_size: int = 51200,
    gated: bool = False,
    tied: bool = True,
    context_tokens: int = 0,
    position_rows: int = 0,
    name: str = "",
) -> Architecture:
    """A dense decoder of equal layers. Defaults are those of GPT as Megatron-LM trains it: two matrices of 4 widths, tied embeddings.

    n_kv_heads 0: as many as n_heads; head_dim 0: d_model / n_heads; d_ff 0: 4 d_model, gated 8/3 d_model rounded up to 256.
    Raises InputError for sizes that cannot be.
    """
    sizes = {"d_model": d_model, "n_layers": n_layers, "n_heads": n_heads, "vocab_size": vocab_size}
    wrong = [f"{label} {size}" for label, size in sizes.items() if size < 1]
    if wrong:
        raise InputError(f"A model cannot have {' and '.join(wrong)}; give whole numbers of 1 or more.")
    if not head_dim and d_model % n_heads:
        raise InputError(f"d_model {d_model} does not divide by {n_heads} heads; give head_dim.")
    kv_heads = n_kv_heads or n_heads
    if n_heads % kv_heads:
        raise InputError(f"{n_heads} heads do not divide by {kv_heads} key-value heads.")
    inner = d_ff or (-(-8 * d_model // (3 * 256)) * 256 if gated else 4 * d_model)
    attention = Attention(kind="full", n_heads=n_heads, n_kv_heads=kv_heads, head_dim=head_dim or d_model // n_heads)
    return Architecture(
        name=name or f"{n_layers} layers of {d_model}",
        d_model=d_model,
        vocab_size=vocab_size,
        blocks=(Block(n_layers=n_layers, attention=attention, feedforward=Feedforward(d_ff=inner, gated=gated)),),
        tied=tied,
        position_rows=position_rows,
        context_tokens=context_tokens,
        source="shape",
    )


def _keys(name: str) -> tuple[str, ...]:
    """Spellings to look up, the most exact first: without makers, then without endings, one after the other."""
    plain = re.sub(r"\([^)]*\)", " ", name.strip().lower())
    tries = [plain, plain.rsplit("/", 1)[-1]] if "/" in plain else [plain]
    found: list[str] = []
    for text in tries:
        tokens = [token for token in re.split(r"[\s_\-/:@=]+", text) if token]
        while tokens:
            found.append(_join(tokens))
            if len(tokens) > 1 and tokens[0] in _MAKERS:
                found.append(_join(tokens[1:]))
            if len(tokens) < 2 or not _SUFFIX.fullmatch(tokens[-1]):
                break
            tokens = tokens[:-1]
    return tuple(dict.fromkeys(found))


def _join(tokens: list[str]) -> str:
    return re.sub(r"\.0+b$", "b", "".join(tokens))


@cache
def _by_key() -> dict[str, str]:
    """Catalog name by spelling; a name wins over an alias."""
    known: dict[str, str] = {}
    for entry in _catalog().values():
        for alias in entry.architecture.aliases:
            known[_keys(alias)[0]] = entry.architecture.name
    for name in _catalog():
        known[_keys(name)[0]] = name
    return known


@cache
def _catalog() -> dict[str, CatalogEntry]:
    found = {}
    for path in sorted(ARCHITECTURES_FOLDER.glob("*.toml")):
        entry = _entry(tomllib.loads(path.read_text(encoding="utf-8")))
        found[entry.architecture.name] = entry
    return found


def _entry(table: Mapping[str, Any]) -> CatalogEntry:
    blocks = tuple(
        Block(
            n_layers=block["n_layers"],
            attention=Attention(**block["attention"]) if "attention" in block else None,
            feedforward=Feedforward(**block["feedforward"]) if "feedforward" in block else None,
        )
        for block in table["block"]
    )
    shape = Architecture(
        name=table["name"],
        d_model=table["d_model"],
        vocab_size=table["vocab_size"],
        blocks=blocks,
        tied=table.get("tied", False),
        position_rows=table.get("position_rows", 0),
        predict_layers=table.get("predict_layers", 0),
        context_tokens=table.get("context_tokens", 0),
        published_weights=table.get("published_weights", "bf16"),
        aliases=tuple(table.get("aliases", ())),
        source=table["source"],
    )
    return CatalogEntry(
        architecture=shape,
        verified=table["verified"],
        published_params=table.get("published_params", 0),
        published_active_params=table.get("published_active_params", 0),
    )
