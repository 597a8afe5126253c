"""Any model source as the Hugging Face directory that is trained."""

import json
from dataclasses import replace
from pathlib import Path

from trimtab.compress.base import make
from trimtab.core.deployment import Recipe
from trimtab.core.errors import InputError
from trimtab.core.training import TrainConfig
from trimtab.record.home import cache_dir
from trimtab.sources.open import open_source

DIRECTORY = Recipe(
    name="huggingface-fp32", family="huggingface", engine="transformers", title="Hugging Face directory", parameters={"dtype": "float32"}
)
PRODUCTS = "products"


def huggingface_folder(source: str, *, only_shape: bool = False, offline: bool = False) -> Path:
    """The directory of a source: itself, where it is one, else fetched and converted into the cache.

    only_shape: its weights are not needed (`init = "random"`). Raises InputError, MissingError; InfeasibleError for a form that cannot be
    converted.
    """
    here = Path(source).expanduser()
    has_weights = any(here.glob("*.safetensors"))
    if (here / "config.json").is_file() and (has_weights or only_shape):
        if not any((here / name).is_file() for name in ("tokenizer.json", "tokenizer.model", "vocab.json")):
            raise InputError(f"{here} has no tokenizer; put the one that the model was trained with beside config.json.")
        return here
    snapshot = open_source(source, cache_dir=cache_dir(), offline=offline)
    return make(DIRECTORY, snapshot, cache_dir() / PRODUCTS).root


def with_folders(config: TrainConfig, *, offline: bool = False) -> TrainConfig:
    """The configuration with the directories of its model and its teacher in place of their sources. Raises as `huggingface_folder`."""
    folder = huggingface_folder(config.model.source, only_shape=config.model.init == "random", offline=offline)
    check_vocabulary(folder)
    config = replace(config, model=replace(config.model, source=str(folder.absolute())))
    if config.objective.teacher:
        teacher = huggingface_folder(config.objective.teacher, offline=offline).absolute()
        config = replace(config, objective=replace(config.objective, teacher=str(teacher)))
    return config


def check_vocabulary(folder: Path) -> None:
    """Raises InputError for a tokenizer that names tokens which the model has no place for: it is another model's.

    Looks at tokenizer.json and config.json alone; what they do not tell is left to whoever reads the texts.
    """
    try:
        tokenizer = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return
    except (OSError, ValueError) as error:
        raise InputError(f"{folder}: its tokenizer.json or config.json cannot be read ({error}); copy the folder again.") from error
    size = config.get("vocab_size") or config.get("text_config", {}).get("vocab_size")
    vocabulary = tokenizer.get("model", {}).get("vocab", {})
    ids = [*vocabulary.values()] if isinstance(vocabulary, dict) else [len(vocabulary) - 1]
    most = max([*ids, *(token["id"] for token in tokenizer.get("added_tokens", []))], default=-1)
    if isinstance(size, int) and most >= size:
        raise InputError(f"{folder}: its tokenizer numbers tokens up to {most}, and the model has {size}; put its own tokenizer there.")
