"""Grids against the engines' own converters: ggml's reference quantisers (through the library and gguf-py) and NNCF."""

import ctypes
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trimtab.compress.grid_gguf import pack, unpack, write_gguf
from trimtab.compress.grids import GRIDS, Codes, dequantize, quantize
from trimtab.compress.names import Names, names_of
from trimtab.core.errors import InputError
from trimtab.testing.tiny_models import write_tiny_gguf

GGUF_GRIDS = [name for name, grid in GRIDS.items() if grid.engine == "llamacpp"]
OPENVINO_GRIDS = [name for name, grid in GRIDS.items() if grid.engine == "openvino"]


def matrix(seed: int, rows: int = 16, columns: int = 256, scale: float = 0.05) -> np.ndarray:
    """Weights as models have them: normal, some rows with outliers, one row of zeros, one of one sign, one constant, ties at halves."""
    random = np.random.default_rng(seed)
    values = random.standard_normal((rows, columns)).astype(np.float32) * np.float32(scale)
    values[0] = 0
    values[1] = np.abs(values[1])
    values[2] = -np.abs(values[2])
    values[3] = np.float32(0.3)
    values[4, ::32] *= 40
    values[5] = np.round(values[5] * 8 / scale) / 16
    return values


def by_ggml(values: np.ndarray, type_name: str) -> np.ndarray:
    """Bytes [rows, bytes a row] by ggml's quantiser in the library that llama.cpp is built with."""
    libggml = pytest.importorskip("llama_cpp._ggml").libggml
    kind = gguf.GGMLQuantizationType[type_name]
    block, size = gguf.GGML_QUANT_SIZES[kind]
    rows, columns = values.shape
    raw = np.empty((rows, columns // block * size), np.uint8)
    call = libggml.ggml_quantize_chunk
    call.restype, pointer = ctypes.c_size_t, ctypes.c_void_p
    call.argtypes = (ctypes.c_int, pointer, pointer, ctypes.c_int64, ctypes.c_int64, ctypes.c_int64, pointer)
    call(int(kind), values.ctypes.data, raw.ctypes.data, 0, rows, columns, None)
    return raw


def by_nncf(values: np.ndarray, grid: str) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Levels, scales (float16) and zero points as NNCF's weight compression makes them."""
    from trimtab.compress.openvino import import_openvino

    import_openvino()
    import nncf
    from nncf.quantization.algorithms.weight_compression.config import WeightCompressionConfig
    from nncf.quantization.algorithms.weight_compression.weight_lowering import do_integer_quantization
    from nncf.tensor import Tensor

    held = GRIDS[grid]
    mode = nncf.CompressWeightsMode(grid.split("-g")[0].replace("-", "_"))
    made = do_integer_quantization(Tensor(values), WeightCompressionConfig(mode, held.group or -1), reduction_axes=(1,))
    rows, columns = values.shape
    levels = made.tensor.data.reshape(rows, columns)
    zeros = None if made.zero_point is None else made.zero_point.data.reshape(rows, -1)
    return levels, made.scale.data.reshape(rows, -1).astype(np.float16), zeros


@pytest.mark.parametrize("grid", GGUF_GRIDS)
def test_ggufs_grids_are_those_of_llamacpp(grid: str) -> None:
    for seed in range(8):
        values = matrix(seed, scale=10.0 ** (seed - 6))
        codes = quantize(values, grid)
        np.testing.assert_array_equal(pack(codes), by_ggml(values, grid))


@pytest.mark.parametrize("grid", GGUF_GRIDS)
def test_their_numbers_are_those_of_gguf_py_and_of_ggml(grid: str) -> None:
    libggml = pytest.importorskip("llama_cpp._ggml").libggml
    values = matrix(1)
    codes = quantize(values, grid)
    raw = pack(codes)
    kind = gguf.GGMLQuantizationType[grid]
    np.testing.assert_array_equal(dequantize(codes), gguf.quants.dequantize(raw, kind))
    out = np.empty(values.shape, np.float32)
    call = getattr(libggml, f"dequantize_row_{grid.lower()}")
    call.restype, call.argtypes = None, (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)
    call(raw.ctypes.data, out.ctypes.data, out.size)
    np.testing.assert_array_equal(dequantize(codes), out)
    if grid != "IQ4_NL":
        np.testing.assert_array_equal(raw, gguf.quants.quantize(values, kind))


@pytest.mark.parametrize("grid", OPENVINO_GRIDS)
@pytest.mark.parametrize("rows", [16, 128])
def test_openvinos_grids_are_those_of_nncf(grid: str, rows: int) -> None:
    """Small matrices go through NNCF's numpy, those of 10,000 weights and more through OpenVINO."""
    pytest.importorskip("nncf")
    for seed in range(3):
        values = matrix(seed, rows, scale=10.0 ** (seed - 2))
        codes = quantize(values, grid)
        levels, scales, zeros = by_nncf(values, grid)
        np.testing.assert_array_equal(codes.levels, levels)
        np.testing.assert_array_equal(codes.scales, scales)
        assert (codes.offsets is None) == (zeros is None)
        if zeros is not None:
            np.testing.assert_array_equal(codes.offsets, zeros)


def extreme(grid: str) -> st.SearchStrategy[np.ndarray]:
    """Matrices of any small shape that the grid takes, of any finite floats: zeros, subnormals, huge, all alike."""
    group = GRIDS[grid].group or 1
    number = st.one_of(
        st.floats(width=32, allow_nan=False, allow_infinity=False),
        st.sampled_from([0.0, -0.0, 1e-45, -1e-40, 6e-8, 2**-14, 3.4e38, -3.4e38, 65504.0, 7.5, -8.0, 0.5]).map(np.float32),
    )

    @st.composite
    def build(draw: Any) -> np.ndarray:
        rows, columns = draw(st.integers(1, 3)), group * draw(st.integers(1, 3 if group > 1 else 40))
        few = draw(st.lists(number, min_size=1, max_size=5))
        places = draw(st.randoms(use_true_random=False))
        values = np.array([places.choice(few) for _ in range(rows * columns)], np.float32)
        return values.reshape(rows, columns)

    return build()


@pytest.mark.parametrize("grid", list(GRIDS))
def test_extreme_weights(grid: str) -> None:
    """Whatever comes is refused, or lies on the grid within a step of where it was, as the engine's own converter has it."""

    if GRIDS[grid].engine == "llamacpp":
        pytest.importorskip("llama_cpp")

    @settings(max_examples=25, deadline=None, derandomize=True)
    @given(extreme(grid))
    def check(values: np.ndarray) -> None:
        held = GRIDS[grid]
        try:
            codes = quantize(values, grid)
        except InputError:
            assert np.abs(values).max() > 60_000
            return
        found = dequantize(codes)
        assert np.isfinite(found).all()
        assert found.dtype == np.float32
        if held.engine == "llamacpp":
            raw = pack(codes)
            np.testing.assert_array_equal(found, gguf.quants.dequantize(raw, gguf.GGMLQuantizationType[grid]))
            again = unpack(raw, grid)
            for part in ("levels", "scales", "offsets"):
                np.testing.assert_array_equal(getattr(again, part), getattr(codes, part))
            np.testing.assert_array_equal(found, gguf.quants.dequantize(by_ggml(values, grid), gguf.GGMLQuantizationType[grid]))
        if not held.table:
            span = values.reshape((*codes.scales.shape, -1))
            # Half a step and a whole one where the range is clipped; 16-bit scales and offsets are off by 2^-11 of themselves, or by 2^-25.
            step = np.ptp(np.concatenate([span, 0 * span], -1), -1) / held.high if held.low == 0 else np.abs(span).max(-1) / -held.low
            room = step + np.abs(span).max(-1) * 2.0**-9 + (held.high - held.low) * 2.0**-24 + 2e-7
            assert (np.abs(found.reshape(span.shape) - span) <= room[..., None]).all()

    check()


@pytest.mark.parametrize(
    ("values", "grid", "words"),
    [
        (np.zeros((2, 33), np.float32), "Q4_0", "33"),
        (np.zeros((2, 96), np.float32), "int4-sym-g64", "96"),
        (np.zeros(32, np.float32), "Q4_0", "matrix"),
        (np.zeros((0, 32), np.float32), "Q4_0", "matrix"),
        (np.full((1, 32), np.nan, np.float32), "Q8_0", "NaN"),
        (np.full((1, 32), np.inf, np.float32), "int8-sym", "NaN or infinity"),
        (np.full((1, 32), 1e9, np.float32), "Q4_1", "16-bit"),
        (np.zeros((1, 32), np.float32), "Q3_Z", "Q4_0"),
    ],
)
def test_what_no_grid_takes(values: np.ndarray, grid: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        quantize(values, grid)


def test_codes_that_are_not_their_grids() -> None:
    good = quantize(matrix(0), "int4-asym-g32")
    assert good.offsets is not None
    parts = {"levels": good.levels, "scales": good.scales, "offsets": good.offsets}
    for change, words in [
        ({"levels": good.levels + np.uint8(16)}, "levels"),
        ({"levels": good.levels.astype(np.int8)}, "uint8"),
        ({"scales": good.scales[:, :-1]}, "Scales"),
        ({"scales": good.scales.astype(np.float32)}, "float16"),
        ({"scales": good.scales * np.float16(np.inf)}, "finite"),
        ({"offsets": None}, "Offsets"),
        ({"offsets": good.offsets + np.uint8(16)}, "zero points"),
    ]:
        with pytest.raises(InputError, match=words):
            dequantize(Codes(grid="int4-asym-g32", **{**parts, **change}))


@pytest.mark.parametrize("grid", GGUF_GRIDS)
def test_a_written_file_stands_for_the_grid(tmp_path: Path, grid: str) -> None:
    """Trained codes in a file, read by gguf-py; what is not replaced has the same bytes, and llama.cpp opens it."""
    if grid == "IQ4_NL":
        pytest.importorskip("llama_cpp")
    source = write_tiny_gguf(tmp_path / "tiny.gguf", weight_type="F16")
    before = {tensor.name: tensor for tensor in gguf.GGUFReader(source).tensors}
    random = np.random.default_rng(0)
    wanted = {
        name: quantize(random.standard_normal(tuple(reversed(before[name].shape))).astype(np.float32), grid)
        for name in ("blk.0.attn_q.weight", "blk.1.ffn_down.weight", "token_embd.weight")
    }
    norm = {"blk.1.ffn_norm.weight": random.standard_normal(64).astype(np.float32)}
    target = tmp_path / "healed.gguf"
    write_gguf(source, target, wanted, norm)
    reader = gguf.GGUFReader(target)
    for tensor in reader.tensors:
        if tensor.name in wanted:
            np.testing.assert_array_equal(gguf.quants.dequantize(tensor.data, tensor.tensor_type), dequantize(wanted[tensor.name]))
        elif tensor.name in norm:
            np.testing.assert_array_equal(tensor.data, norm[tensor.name])
        else:
            assert tensor.tensor_type == before[tensor.name].tensor_type
            np.testing.assert_array_equal(tensor.data, before[tensor.name].data)
    old = {name: field.contents() for name, field in gguf.GGUFReader(source).fields.items() if not name.startswith("GGUF.")}
    new = {name: field.contents() for name, field in reader.fields.items() if not name.startswith("GGUF.")}
    assert new.pop("general.file_type") == gguf.LlamaFileType[f"MOSTLY_{grid}"]
    old.pop("general.file_type")
    assert new == old
    assert sorted(path.name for path in tmp_path.iterdir()) == ["healed.gguf", "tiny.gguf"]


def test_replacements_that_do_not_fit_a_file(tmp_path: Path) -> None:
    source = write_tiny_gguf(tmp_path / "tiny.gguf")
    codes = quantize(np.ones((64, 64), np.float32), "Q4_0")
    for given_codes, floats, words in [
        ({"blk.9.attn_q.weight": codes}, {}, "has no weight"),
        ({"blk.0.ffn_up.weight": codes}, {}, "128, 64"),
        ({"blk.0.attn_q.weight": codes}, {"blk.0.attn_q.weight": np.ones((64, 64), np.float32)}, "both"),
        ({"blk.0.attn_q.weight": quantize(np.ones((64, 64), np.float32), "int8-sym")}, {}, "int8-sym"),
    ]:
        with pytest.raises(InputError, match=words):
            write_gguf(source, tmp_path / "out.gguf", given_codes, floats)
    assert [path.name for path in tmp_path.iterdir()] == ["tiny.gguf"]


# Names


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "qwen3", "gemma", "gemma2", "gemma3", "phi3"])
def test_names_there_and_back_as_gguf_py_has_them(architecture: str) -> None:
    names = Names(architecture=architecture, head_size=16)
    kind = next(number for number, name in gguf.MODEL_ARCH_NAMES.items() if name == architecture)
    table = gguf.get_tensor_name_map(kind, 12)
    shorts = ["token_embd.weight", "output_norm.weight", *(f"blk.11.{short}.weight" for short in names._layer())]
    for short in shorts:
        assert names.gguf(names.hf(short)) == short
        assert table.get_name(names.hf(short), try_suffixes=(".weight",)) == short
    with pytest.raises(InputError, match="rotary"):
        names.gguf("model.rotary.weight")
    with pytest.raises(InputError, match="rope_freqs"):
        names.hf("rope_freqs.weight")


def test_rows_of_heads_there_and_back() -> None:
    names = names_of({"model_type": "mistral", "hidden_size": 64, "num_attention_heads": 4})
    assert names == Names(architecture="llama", head_size=16)
    weight = np.random.default_rng(0).standard_normal((32, 64)).astype(np.float32)
    name = "model.layers.1.self_attn.k_proj.weight"
    # llama.cpp's own conversion, with its number of heads
    expected = weight.reshape(2, 2, 8, 64).swapaxes(1, 2).reshape(32, 64)
    np.testing.assert_array_equal(names.values_for_gguf(name, weight), expected)
    np.testing.assert_array_equal(names.values_for_hf(name, expected), weight)
    codes = quantize(weight, "Q4_1")
    moved = names.codes_for_gguf(name, codes)
    np.testing.assert_array_equal(dequantize(moved), names.values_for_gguf(name, dequantize(codes)))
    np.testing.assert_array_equal(dequantize(names.codes_for_hf(name, moved)), dequantize(codes))
    assert names.codes_for_gguf("model.layers.1.mlp.up_proj.weight", codes) is codes
    assert names.ir(name) == "model.layers[1].self_attn.k_proj.weight"
