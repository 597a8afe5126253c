"""A model in the form that is trained, and the trained one in the form that the source had."""

from pathlib import Path

from trimtab.compress.child import make_apart
from trimtab.core.deployment import CandidateSpec, Recipe
from trimtab.core.errors import InputError
from trimtab.flows.parts.opening import AS_SHIPPED, Opened
from trimtab.flows.parts.reference import EXACT
from trimtab.flows.parts.session import Session
from trimtab.record.disk import sentences
from trimtab.sources.open import open_source

DIRECTORY = Recipe(
    name="huggingface-float32", family="huggingface", engine="transformers", title="Hugging Face directory", parameters={"dtype": "float32"}
)
TRAINED = ("gguf", "safetensors")
GGUF_NAME = "model.gguf"


def check_form(opened: Opened) -> None:
    """Raise InputError for a source that cannot be trained and brought back."""
    if opened.snapshot.format not in TRAINED or opened.snapshot.format not in EXACT:
        raise InputError(
            f"{opened.snapshot.source} holds {opened.snapshot.format} weights, which cannot be trained and brought back; give the GGUF "
            "file or the Hugging Face directory that it was made from."
        )


async def directory_of(session: Session, opened: Opened) -> Path:
    """The Hugging Face directory to train. Raises InfeasibleError, MissingError."""
    session.say("convert", f"{opened.snapshot.source} as a Hugging Face directory")
    made = await make_apart(DIRECTORY, opened.snapshot, session.products_dir)
    return made.root


def brought_back(trained: Path, like: Opened, out: Path, *, cache_dir: Path) -> Path:
    """The trained directory in the source's form: itself, or a GGUF file in `out`, in 32-bit floats: nothing that was trained is rounded.

    Raises InfeasibleError, InputError.
    """
    if like.snapshot.format != "gguf":
        return trained
    from trimtab.compress.gguf_from_hf import write_gguf_of

    target = out / GGUF_NAME
    with sentences(out, "write"):
        write_gguf_of(open_source(str(trained), cache_dir=cache_dir, offline=True), target)
    return target


def judged_spec(path: Path, like: Opened) -> CandidateSpec:
    """The trained model on the engine, and by the recipe, that the reference is made with: what differs is the training."""
    engine, recipe, _ = EXACT[like.snapshot.format]
    return CandidateSpec(source=str(path), engine=engine, recipe="" if recipe == AS_SHIPPED else recipe)
