"""How a sentence-transformers directory makes one vector of a text: what is read beside its weights."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from trimtab.core.errors import InputError

Pooling = Literal["mean", "first"]
OTHER: dict[Pooling, Pooling] = {"mean": "first", "first": "mean"}
DEFAULT_MAX_TOKENS = 512


@dataclass(frozen=True, kw_only=True)
class EmbeddingForm:
    """pooling: mean of the last states over a text's tokens, or the first token's; max_tokens: what is cut off begins there"""

    pooling: Pooling
    max_tokens: int


def read_form(folder: Path) -> EmbeddingForm:
    """What modules.json, its pooling and sentence_bert_config.json say. Raises InputError for parts that are not known here."""
    modules = _read(folder / "modules.json", [])
    kinds = [str(one.get("type", "")).rpartition(".")[2] for one in modules if isinstance(one, dict)]
    unknown = [kind for kind in kinds if kind not in ("Transformer", "Pooling", "Normalize")]
    if unknown:
        raise InputError(f"{folder} also passes its vectors through {unknown[0]}, which is not known here.")
    place = next((str(one.get("path", "")) for one in modules if str(one.get("type", "")).endswith("Pooling")), "1_Pooling")
    told = _read(folder / place / "config.json", None)
    if not isinstance(told, dict):
        raise InputError(f"{folder} does not say how its vectors are pooled ({place}/config.json); give a sentence-transformers directory.")
    modes = {key.removeprefix("pooling_mode_") for key, value in told.items() if key.startswith("pooling_mode_") and value is True}
    if told.get("pooling_mode") in ("mean", "cls"):
        modes = {"mean_tokens" if told["pooling_mode"] == "mean" else "cls_token"}
    if modes not in ({"mean_tokens"}, {"cls_token"}):
        raise InputError(f"{folder} pools its vectors by {', '.join(sorted(modes)) or 'nothing'}; known are mean_tokens and cls_token.")
    length = _read(folder / "sentence_bert_config.json", {}).get("max_seq_length")
    return EmbeddingForm(
        pooling="mean" if modes == {"mean_tokens"} else "first",
        max_tokens=length if type(length) is int and length > 0 else DEFAULT_MAX_TOKENS,
    )


def _read(path: Path, default: Any) -> Any:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return default
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read ({error}).") from error
    return found if default is None or isinstance(found, type(default)) else default
