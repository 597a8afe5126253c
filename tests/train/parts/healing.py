"""A tiny candidate to heal: a random GGUF model, its Hugging Face directory, its 4-bit file, and text."""

from pathlib import Path

from trimtab.compress.base import load_recipes, make
from trimtab.core.deployment import Recipe
from trimtab.core.model import Snapshot
from trimtab.sources.open import open_source
from trimtab.testing.tiny_models import write_tiny_gguf

TEXT = (
    "the small boat turned slowly into the wind and the old sailor watched the water near the shore while the children on the beach were "
    "counting the waves and the birds that came from the north with the first cold days of the year when the harbour is quiet again"
)
WORDS = TEXT.split()


def tiny_model(folder: Path) -> tuple[Snapshot, Snapshot]:
    """The model as a GGUF file and as a Hugging Face directory."""
    path = write_tiny_gguf(folder / "tiny.gguf", hidden_size=64, feed_forward_size=128)
    source = open_source(str(path), cache_dir=folder / "cache", offline=True)
    recipe = next(recipe for recipe in load_recipes() if recipe.name == "huggingface-fp32")
    return source, make(recipe, source, folder / "products")


def packed(source: Snapshot, folder: Path, type_name: str = "Q4_0") -> Snapshot:
    """llama.cpp's file of one type."""
    recipe = Recipe(name=f"llamacpp-{type_name}", family="gguf", engine="llamacpp", parameters={"type": type_name}, bits_per_weight=4.5)
    return make(recipe, source, folder / "products")


def text_file(path: Path, n_words: int = 20_000) -> Path:
    """Words in an order that looks random and is always the same."""
    places = [(place * place * 31 + place * 7) % len(WORDS) for place in range(n_words)]
    path.write_text("\n".join(" ".join(WORDS[place] for place in places[first : first + 200]) for first in range(0, n_words, 200)))
    return path
