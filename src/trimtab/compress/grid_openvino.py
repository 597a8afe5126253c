"""OpenVINO models with weights on a grid, in exactly the form that NNCF writes, so that the CPU plugin's packed kernels take them.

A weight is Constant(u4, i4, u8, i8) -> Convert(f16) [-> Subtract Convert(zero point)] -> Multiply scale(f16) [-> Reshape] -> Convert(f32),
with groups as an axis of their own. OpenVINO multiplies it out in 32-bit floats, so what it computes with is `grids.dequantize`.
"""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from trimtab.compress.grids import GRIDS, Codes, Floats, Grid, check_codes
from trimtab.compress.openvino import MODEL_NAMES, PRODUCT_RECORD, import_openvino, name_by_place
from trimtab.core.errors import InputError

CHAIN = ("Convert", "Subtract", "Multiply", "Reshape")
"""What may stand between the constant of a weight and the operation that takes it."""


def write_openvino(base: Path, out: Path, codes: Mapping[str, Codes], floats: Mapping[str, Floats]) -> None:
    """Write the OpenVINO directory `base` to the folder `out` with the weights named in `codes` and `floats` replaced.

    base: a directory as the recipes of family openvino make it, of 16-bit floats or packed; its other weights and files stay
    codes, floats: by the name of the constant (`Names.ir`), rows as Hugging Face has them; floats become 16-bit floats
    Raises InputError for a name that the model does not have, another shape, another engine's grid, or floats beyond 65504. Vectors (norms,
    biases) have no name in such a model: make a base of the new ones.
    """
    openvino = import_openvino()
    for name, each in codes.items():
        if check_codes(each).engine != "openvino":
            raise InputError(f"An OpenVINO model cannot hold grid {each.grid}, which {name} is to have.")
        if name in floats:
            raise InputError(f"{name} is given both on a grid and as floats.")
    model = openvino.Core().read_model(str(base / "openvino_model.xml"))
    nodes = model.get_ordered_ops()
    before = {node.get_friendly_name() for node in nodes}
    constants = {node.get_friendly_name(): node for node in nodes if node.get_type_name() == "Constant"}
    replacements: dict[str, Codes | Floats] = {**codes, **floats}
    for name, replacement in replacements.items():
        if name not in constants:
            raise InputError(f"The OpenVINO model in {base} has no weight {name!r}.")
        end = _end_of_chain(constants[name])
        shape = tuple(end.get_output_shape(0))
        if shape != tuple(replacement.shape):
            raise InputError(f"{name} is {shape} in {base}, and what is to replace it is {tuple(replacement.shape)}.")
        users = list(end.output(0).get_target_inputs())
        new = (
            _packed(name, replacement, port=users[0].get_index())
            if isinstance(replacement, Codes)
            else _half(name, np.asarray(replacement, np.float32))
        )
        for user in users:
            user.replace_source_output(new.output(0))
    model.validate_nodes_and_infer_types()
    name_by_place(model, before)
    out.mkdir(parents=True, exist_ok=True)
    openvino.save_model(model, str(out / "openvino_model.xml"), compress_to_fp16=False)
    for path in base.iterdir():
        if path.is_file() and path.name not in (*MODEL_NAMES, PRODUCT_RECORD):
            shutil.copyfile(path, out / path.name)


def read_codes(folder: Path) -> dict[str, Codes]:
    """Every weight of an OpenVINO directory that lies on one of our grids, by the name of its constant."""
    openvino = import_openvino()
    model = openvino.Core().read_model(str(folder / "openvino_model.xml"))
    constants = {node.get_friendly_name(): node for node in model.get_ordered_ops() if node.get_type_name() == "Constant"}
    found = {}
    for name, node in constants.items():
        kind = node.get_element_type().get_type_name()
        scales = constants.get(f"{name}/scale")
        if kind not in ("i4", "u4", "i8", "u8") or scales is None:
            continue
        columns = int(np.prod(node.get_output_shape(0)[1:]))
        sort = "sym" if kind.startswith("i") else "asym"
        group = columns // int(np.prod(scales.get_output_shape(0)[1:]))
        grid = f"int8-{sort}" if kind.endswith("8") else f"int4-{sort}-g{group}"
        if grid not in GRIDS:
            continue
        rows = int(node.get_output_shape(0)[0])
        zeros = constants.get(f"{name}/zero_point")
        found[name] = Codes(
            grid=grid,
            levels=_whole(node).reshape(rows, -1),
            scales=np.array(scales.data, np.float16).reshape(rows, -1),
            offsets=None if zeros is None else _whole(zeros).reshape(rows, -1),
        )
    return found


def _whole(constant: Any) -> Any:
    """The levels of a constant of 4 or 8 bits as int8 or uint8, in its shape. The first of two lies in the low nibble."""
    kind, shape = constant.get_element_type().get_type_name(), tuple(constant.get_output_shape(0))
    raw = np.array(constant.data).view(np.uint8)
    if kind.endswith("4"):
        raw = np.stack([raw & 15, raw >> 4], axis=-1).reshape(-1)[: int(np.prod(shape))]
        if kind == "i4":
            raw = raw | np.where(raw > 7, 0xF0, 0).astype(np.uint8)
    return raw.view(np.int8 if kind.startswith("i") else np.uint8).reshape(shape)


def _end_of_chain(constant: Any) -> Any:
    """The last node of the constant sub-graph that unpacks a weight: where its users take it."""
    node = constant
    while True:
        users = list(node.output(0).get_target_inputs())
        if len(users) != 1 or users[0].get_node().get_type_name() not in CHAIN or users[0].get_index() != 0:
            return node
        user = users[0].get_node()
        if any(not _is_constant(user.input_value(index).get_node()) for index in range(1, user.get_input_size())):
            return node
        node = user


def _is_constant(node: Any) -> bool:
    inner = node.input_value(0).get_node() if node.get_type_name() == "Convert" else node
    return bool(inner.get_type_name() == "Constant")


def _packed(name: str, codes: Codes, *, port: int) -> Any:
    """The sub-graph of a weight on a grid. port: of the operation that takes it, which NNCF has in a name."""
    openvino = import_openvino()
    from openvino import opset13

    grid = check_codes(codes)
    half = openvino.Type.f16
    kind = (
        {True: openvino.Type.u4, False: openvino.Type.i4}
        if grid.high - grid.low == 15
        else {True: openvino.Type.u8, False: openvino.Type.i8}
    )
    levels, scales, zeros = _by_group(codes, grid)
    value = opset13.convert(opset13.constant(levels, dtype=kind[grid.low == 0], name=name), half)
    if zeros is not None:
        zero = opset13.convert(opset13.constant(zeros, dtype=kind[True], name=f"{name}/zero_point"), half)
        value = opset13.subtract(value, zero, name=f"{name}/zero_point/subtract")
    value = opset13.multiply(value, opset13.constant(scales, dtype=half, name=f"{name}/scale"), name=f"{name}/fq_weights_{port}")
    if grid.group:
        value = opset13.reshape(value, output_shape=list(codes.shape), special_zero=False)
    return opset13.convert(value, openvino.Type.f32)


def _by_group(codes: Codes, grid: Grid) -> tuple[Any, Any, Any]:
    """Levels, scales and zero points with the groups as an axis of their own; whole rows have none."""
    rows, columns = codes.shape
    if not grid.group:
        return codes.levels, codes.scales, codes.offsets
    levels = codes.levels.reshape(rows, columns // grid.group, grid.group)
    return levels, codes.scales[..., None], None if codes.offsets is None else codes.offsets[..., None]


def _half(name: str, values: Floats) -> Any:
    """The sub-graph of a weight of 16-bit floats, as OpenVINO writes it."""
    openvino = import_openvino()
    from openvino import opset13

    with np.errstate(over="ignore"):
        halves = values.astype(np.float16)
    if not np.isfinite(halves).all():
        raise InputError(f"{name} holds numbers that 16-bit floats cannot.")
    return opset13.convert(opset13.constant(halves, name=name), openvino.Type.f32)
