"""What OpenVINO GenAI's GGUF reader makes of a file: what it would leave out without a word is refused before it is asked.

The reader takes the widths of feed-forward layers from the tensors, so a Llama whose layers differ in them (architecture `deci`) is given
to it as an ordinary one; it takes the number of heads from the metadata, so layers that differ in that are refused.
"""

from pathlib import Path
from typing import Any

from trimtab.core.errors import InfeasibleError

BIASES = ("attn_q.bias", "attn_k.bias", "attn_v.bias")


def readable(path: Path, folder: Path) -> Path:
    """The file that the reader is to get: path itself, or a copy in folder under the name that it knows.

    Raises InfeasibleError for what the reader would ignore (rotary embeddings scaled or with factors, biases), or cannot say.
    """
    import gguf

    reader = gguf.GGUFReader(path)
    metadata = {name: held for name, held in reader.fields.items() if not name.endswith((".tokens", ".merges", ".scores", ".token_type"))}
    architecture = str(metadata["general.architecture"].contents()) if "general.architecture" in metadata else ""
    names = {tensor.name for tensor in reader.tensors}
    scaling = metadata.get(f"{architecture}.rope.scaling.type")
    ignored = ""
    if "rope_freqs.weight" in names:
        ignored = "the factors of its rotary embedding"
    elif scaling is not None and scaling.contents() != "none":
        ignored = f"that its rotary embedding is scaled ({scaling.contents()})"
    elif biases := sorted(name for name in names if name.endswith(".bias") and not (architecture == "qwen2" and name.endswith(BIASES))):
        ignored = f"its biases ({biases[0]})"
    if ignored:
        raise InfeasibleError(f"OpenVINO GenAI's reader would ignore {ignored} in {path.name}, and the model would be another one.")
    return _as_llama(reader, folder) if architecture == "deci" else path


def _as_llama(reader: Any, folder: Path) -> Path:
    """A copy whose architecture is `llama`, with the widths of the first layer in the metadata."""
    import gguf

    target = folder / "evened.gguf"
    writer = gguf.GGUFWriter(target, "llama")
    for name, held in reader.fields.items():
        if name.startswith("GGUF.") or name == "general.architecture":
            continue
        kind, value = held.types[0], held.contents()
        key = name.replace("deci.", "llama.", 1) if name.startswith("deci.") else name
        if name.startswith("deci.") and kind == gguf.GGUFValueType.ARRAY:
            if "head_count" in name and len(set(value)) > 1:
                raise InfeasibleError("The layers differ in their number of heads, which OpenVINO GenAI's reader cannot follow.")
            writer.add_uint32(key, value[0])
        elif kind == gguf.GGUFValueType.ARRAY:
            writer.add_key_value(key, value, kind, sub_type=held.types[-1])
        else:
            writer.add_key_value(key, value, kind)
    for tensor in reader.tensors:
        writer.add_tensor_info(tensor.name, tensor.data.shape, tensor.data.dtype, tensor.data.nbytes, raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for tensor in reader.tensors:
        writer.write_tensor_data(tensor.data)
    writer.close()
    return target
