"""Zero points of Q4_1 weights as the GGUF file has them.

A Q4_1 block is w = d q + m with 4-bit q. OpenVINO GenAI's reader keeps q and d and stores -m / d as a 4-bit integer, which moves every
weight of a block by up to half a step. OpenVINO computes with zero points of 16-bit floats as well, so they can be put back.
"""

import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from trimtab.core.errors import InfeasibleError

BLOCK_BYTES = 20
"""ggml block_q4_1: d and m as float16, then 32 codes of 4 bits."""
BLOCK_WEIGHTS = 32

Halves = npt.NDArray[np.float16]


def restore_zero_points(model_path: Path, gguf_path: Path) -> int:
    """Rewrite an OpenVINO model that GenAI read from gguf_path, with exact zero points. Returns how many weights were mended.

    Raises InfeasibleError if the file holds no Q4_1 weights or none is found again in the model.
    """
    import openvino
    from openvino import opset13

    blocks = _read_blocks(gguf_path)
    if not blocks:
        raise InfeasibleError(f"{gguf_path.name} holds no Q4_1 weights, so OpenVINO's reader lost no zero points.")
    model = openvino.Core().read_model(str(model_path))
    n_mended = 0
    for node in model.get_ordered_ops():
        parts = _packed_weight(node)
        if parts is None:
            continue
        subtract, scales = parts
        found = blocks.get(_key(scales))
        if found is None:
            continue
        zero_points = _zero_points(*found)[_order(found[0], scales)]
        subtract.input(1).replace_source_output(opset13.constant(zero_points[..., None]).output(0))
        n_mended += 1
    if n_mended == 0:
        raise InfeasibleError(f"None of the Q4_1 weights of {gguf_path.name} was found again in the model that OpenVINO's reader made.")
    model.validate_nodes_and_infer_types()
    # The weights are mapped from the file that is being replaced, so the new model is written beside it first.
    mended = model_path.with_name("mended.xml")
    openvino.save_model(model, str(mended), compress_to_fp16=False)
    del model
    os.replace(mended.with_suffix(".bin"), model_path.with_suffix(".bin"))
    os.replace(mended, model_path)
    return n_mended


def _read_blocks(path: Path) -> dict[bytes, tuple[Halves, Halves]]:
    """d and m [rows, blocks a row] of every Q4_1 matrix, by its key."""
    import gguf

    found = {}
    for tensor in gguf.GGUFReader(path).tensors:
        if tensor.tensor_type == gguf.GGMLQuantizationType.Q4_1 and len(tensor.shape) == 2:
            columns, rows = (int(length) for length in tensor.shape)
            raw = np.asarray(tensor.data).reshape(-1).view(np.uint8).reshape(rows, columns // BLOCK_WEIGHTS, BLOCK_BYTES)
            heads = np.ascontiguousarray(raw[..., :4]).view(np.float16)
            found[_key(heads[..., 0])] = (heads[..., 0], heads[..., 1])
    return found


def _key(scales: Halves) -> bytes:
    """What a matrix is known by, whatever the order of its rows (the reader reorders those of attention heads)."""
    return repr(scales.shape).encode() + np.sort(np.ascontiguousarray(scales).view(np.uint16), axis=None).tobytes()


def _order(file_scales: Halves, model_scales: Halves) -> npt.NDArray[np.int64]:
    """Row of the file for each row of the model. Rows with the same scales are taken in turn."""
    places: dict[bytes, list[int]] = {}
    for row, scales in enumerate(file_scales):
        places.setdefault(np.ascontiguousarray(scales).tobytes(), []).append(row)
    return np.array([places[np.ascontiguousarray(scales).tobytes()].pop(0) for scales in model_scales], np.int64)


def _zero_points(scales: Halves, minima: Halves) -> Halves:
    """-m / d; 0 where d is 0 (such a block has one value for all, and the reader's product cannot hold it)."""
    d = scales.astype(np.float32)
    ratio = np.divide(-minima.astype(np.float32), d, out=np.zeros_like(d), where=d != 0)
    return ratio.astype(np.float16)


def _packed_weight(node: Any) -> tuple[Any, Halves] | None:
    """The Subtract node and the scales [rows, blocks] of a Multiply that unpacks 4-bit weights in blocks, else None."""
    if node.get_type_name() != "Multiply":
        return None
    subtract, scale = (node.input_value(index).get_node() for index in range(2))
    if subtract.get_type_name() != "Subtract" or scale.get_type_name() != "Constant" or scale.get_element_type().get_type_name() != "f16":
        return None
    codes = subtract.input_value(0).get_node()
    codes = codes.input_value(0).get_node() if codes.get_type_name() == "Convert" else codes
    if codes.get_type_name() != "Constant" or codes.get_element_type().get_type_name() != "u4" or scale.data.ndim != 3:
        return None
    return subtract, scale.data[..., 0]
