"""A compressed candidate as a student: which of its weights lie on a grid that can be trained, and trained codes put back into its file."""

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from trimtab.compress.grids import GRIDS, Codes, Floats, dequantize
from trimtab.compress.names import Names, names_of
from trimtab.core.errors import InfeasibleError
from trimtab.core.model import Snapshot

HEADS = ("model.embed_tokens.weight", "lm_head.weight")
"""Not trained: what they lose to 8 bits is nothing, and they are a large part of a small model."""


@dataclass(frozen=True, kw_only=True)
class Student:
    """base: the candidate's weights; names: of its model; grids: by Hugging Face name, the grid of each weight that can be trained
    kept: matrices that are stored otherwise, as the engine computes with them; grid: the one that most weights have"""

    base: Snapshot
    names: Names
    grids: Mapping[str, str]
    kept: Mapping[str, Floats]
    grid: str


def student_of(candidate: Snapshot, reference: Path) -> Student:
    """Look into a candidate's file. reference: the Hugging Face directory of the same model.

    Raises InfeasibleError where nothing lies on a grid that can be trained.
    """
    names = names_of(json.loads((reference / "config.json").read_text(encoding="utf-8")))
    grids, kept = _of_gguf(candidate, names) if candidate.format == "gguf" else _of_openvino(candidate, names, reference)
    if not grids:
        raise InfeasibleError(
            f"No weight of {candidate.path.name} lies on a grid that can be trained; candidates of these types can be healed: "
            f"{', '.join(GRIDS)}."
        )
    return Student(base=candidate, names=names, grids=grids, kept=kept, grid=Counter(grids.values()).most_common(1)[0][0])


def write_healed(student: Student, codes: Mapping[str, Codes], out: Path) -> Path:
    """Write the candidate's file with trained codes in it: a .gguf file or an OpenVINO directory in the folder `out`. Gives its path."""
    if student.base.format == "gguf":
        from trimtab.compress.grid_gguf import write_gguf

        out.mkdir(parents=True, exist_ok=True)
        target = out / f"{student.base.path.name.removesuffix('.gguf')}-healed.gguf"
        write_gguf(
            student.base.path,
            target,
            {student.names.gguf(name): student.names.codes_for_gguf(name, each) for name, each in codes.items()},
            {},
        )
        return target
    from trimtab.compress.grid_openvino import write_openvino

    write_openvino(student.base.path, out, {student.names.ir(name): each for name, each in codes.items()}, {})
    return out


def is_exact(student: Student, healed: Path, model: Path) -> bool:
    """Whether each trained weight of the healed file stands, bit for bit, for the number in the trained Hugging Face directory `model`."""
    from safetensors import safe_open

    values = read_back(student, healed)
    same = set()
    for path in sorted(model.glob("*.safetensors")):
        with safe_open(path, framework="np") as file:
            for name in student.grids.keys() & set(file.keys()):
                trained = np.ascontiguousarray(file.get_tensor(name), np.float32)
                if np.array_equal(values[name].view(np.uint32), trained.view(np.uint32)):
                    same.add(name)
    return same == student.grids.keys()


def read_back(student: Student, healed: Path) -> Mapping[str, Floats]:
    """By Hugging Face name, the numbers that the engine computes with."""
    if student.base.format == "gguf":
        import gguf

        from trimtab.compress.huggingface import expanded

        wanted = {student.names.gguf(name): name for name in student.grids}
        return {
            wanted[tensor.name]: np.ascontiguousarray(student.names.values_for_hf(wanted[tensor.name], expanded(tensor)))
            for tensor in gguf.GGUFReader(healed).tensors
            if tensor.name in wanted
        }
    from trimtab.compress.grid_openvino import read_codes

    found = read_codes(healed)
    return {name: dequantize(found[student.names.ir(name)]) for name in student.grids}


def _of_gguf(candidate: Snapshot, names: Names) -> tuple[dict[str, str], dict[str, Floats]]:
    import gguf

    from trimtab.compress.huggingface import expanded

    grids, kept = {}, {}
    for tensor in gguf.GGUFReader(candidate.path).tensors:
        if len(tensor.shape) < 2:
            continue
        name, kind = names.hf(tensor.name), tensor.tensor_type.name
        if kind in GRIDS and name not in HEADS:
            grids[name] = kind
        elif kind != "F32":
            kept[name] = names.values_for_hf(name, expanded(tensor))
    return grids, kept


def _of_openvino(candidate: Snapshot, names: Names, reference: Path) -> tuple[dict[str, str], dict[str, Floats]]:
    from safetensors import safe_open

    from trimtab.compress.grid_openvino import read_codes

    found = read_codes(candidate.path)
    grids, kept = {}, {}
    for path in sorted(reference.glob("*.safetensors")):
        with safe_open(path, framework="np") as file:
            held = [name for name in file.keys() if names.ir(name) in found]  # noqa: SIM118
        for name in held:
            codes = found[names.ir(name)]
            if name in HEADS:
                kept[name] = dequantize(codes)
            else:
                grids[name] = codes.grid
    return grids, kept
