"""Models that are refused by name, before anything of them is hashed or opened."""

from pathlib import Path

from trimtab.core.errors import InputError
from trimtab.core.model import ModelHeader

PICKLED_SUFFIXES = frozenset({".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".bin", ".joblib"})
_EMBEDDING_GGUF = frozenset(
    {"bert", "modern-bert", "nomic-bert", "nomic-bert-moe", "neo-bert", "jina-bert-v2", "jina-bert-v3", "eurobert"}
    | {"gemma-embedding", "t5encoder", "llama-embed"}
)
_EMBEDDING_HF = frozenset(
    {"bert", "roberta", "xlm-roberta", "distilbert", "albert", "electra", "mpnet", "deberta", "deberta-v2", "modernbert"}
    | {"nomic_bert", "new", "t5encoder", "gte", "gemma3_text_embedding"}
)
_EMBEDDING_CLASSES = ("ForSequenceClassification", "ForTokenClassification", "ForMaskedLM", "EncoderModel", "EmbeddingModel", "BertModel")


def is_pickled(path: Path) -> bool:
    """True for weights that Python would have to unpickle: by their first bytes, or by their name."""
    try:
        with path.open("rb") as file:
            first = file.read(2)
    except OSError:
        first = b""
    # 0x80 + protocol is a bare pickle; torch's archives are zip files.
    pickled = first[:1] == b"\x80" and first[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05")
    return pickled or (path.suffix.lower() in PICKLED_SUFFIXES and path.name != "openvino_model.bin")


def refuse_pickled(path: Path) -> InputError:
    """The error for pickled weights."""
    return InputError(
        f"{path} holds pickled weights, which can run code when loaded, so trimtab never opens them; "
        "use the model's .safetensors files, or convert it to safetensors in a place you can throw away."
    )


EMBEDDING = "an embedding model"


def check_generative(header: ModelHeader, where: str) -> None:
    """Raises InputError for an embedding model, a reranker or a classifier: they write no text."""
    kind = kind_without_text(header)
    if kind:
        also = (
            "" if kind != EMBEDDING else "; `trimtab compare` and `trimtab evaluate` judge those that are sentence-transformers directories"
        )
        raise InputError(
            f"{where} is {kind} ({header.architecture}); here trimtab takes models that generate text, so give a generative one{also}."
        )


def check_embedding(header: ModelHeader, where: str) -> None:
    """Raises InputError for everything but an embedding model."""
    if kind_without_text(header) != EMBEDDING:
        raise InputError(f"{where} is no embedding model ({header.architecture}); compare it with models of its own kind.")


def kind_without_text(header: ModelHeader) -> str:
    """`an embedding model`, `a reranker` ...; empty for a model that generates text."""
    metadata, architecture = header.metadata, header.architecture
    kind = ""
    if header.format == "gguf":
        pooling = metadata.get(f"{architecture}.pooling_type", 0)
        if pooling == 4 or f"{architecture}.classifier.output_labels" in metadata:
            kind = "a reranker"
        elif architecture in _EMBEDDING_GGUF or pooling in (1, 2, 3):
            kind = EMBEDDING
    else:
        named = metadata.get("architectures")
        name = named[0] if isinstance(named, list) and named and isinstance(named[0], str) else ""
        if name.endswith(("ForSequenceClassification", "ForTokenClassification")):
            kind = "a reranker or classifier"
        elif (
            "sentence_transformers" in metadata
            or name.endswith(_EMBEDDING_CLASSES)
            or (architecture.lower() in _EMBEDDING_HF and "CausalLM" not in name)
        ):
            kind = EMBEDDING
    return kind
