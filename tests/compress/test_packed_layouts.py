"""The formulas of packed weights against packers that share no code with them, torch, transformers and compressed-tensors."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trimtab.compress import packed_layouts as layouts
from trimtab.compress.packed_layouts import PackedError
from trimtab.testing.packed_checkpoints import bits_in_words, pack_awq, pack_gptq, pack_integers, pack_mxfp4

seeds = st.integers(0, 2**32 - 1)
few = settings(max_examples=30, deadline=None)


def matrix(seed: int, rows: int, columns: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((rows, columns)).astype(np.float32)


@few
@given(seed=seeds, bits=st.sampled_from([2, 3, 4, 5, 8]), n=st.integers(1, 130))
def test_numbers_in_words_come_back(seed: int, bits: int, n: int) -> None:
    values = np.random.default_rng(seed).integers(0, 1 << bits, (n, 3))
    words = bits_in_words(values, bits)
    assert np.array_equal(layouts.from_stream(words, bits, n), values)
    if 32 % bits == 0:
        assert np.array_equal(layouts.from_words(np.ascontiguousarray(words.T), bits, n), values.T)


def test_three_bits_in_words_of_their_own_are_told_from_a_stream() -> None:
    values = np.random.default_rng(0).integers(0, 8, (2, 64))
    apart = np.zeros((2, 7), np.int64)
    for place in range(64):
        apart[:, place // 10] |= values[:, place] << (3 * (place % 10))
    for words in (apart.astype(np.uint32).view(np.int32), np.ascontiguousarray(bits_in_words(values.T, 3).T)):
        dense = layouts.lies_dense(words.shape[1], 3, 64)
        assert np.array_equal(layouts.from_words(words, 3, 64, dense=dense), values)
    with pytest.raises(PackedError, match="two ways"):
        layouts.lies_dense(2, 3, 11)
    with pytest.raises(PackedError, match="do not hold"):
        layouts.lies_dense(9, 3, 64)


def test_awq_takes_nibbles_in_its_own_order() -> None:
    """One word by hand: nibble i, from the lowest up, belongs to column (0, 2, 4, 6, 1, 3, 5, 7)[i]."""
    word = np.array([[sum(nibble << (4 * nibble) for nibble in range(8))]], np.uint32).view(np.int32)
    found = layouts.awq(word, np.zeros((1, 1), np.int32), np.ones((1, 8), np.float32), group_size=0)
    assert found[:, 0].tolist() == [0, 4, 1, 5, 2, 6, 3, 7]


@few
@given(seed=seeds, rows=st.sampled_from([8, 24]), groups=st.integers(1, 3))
def test_awq(seed: int, rows: int, groups: int) -> None:
    packed = pack_awq(matrix(seed, rows, 32 * groups))
    held = {name: array for name, (_, array) in packed.stored.items()}
    found = layouts.awq(held["qweight"], held["qzeros"], held["scales"].astype(np.float32), group_size=32)
    assert np.array_equal(found, packed.values)


@few
@given(seed=seeds, bits=st.sampled_from([2, 3, 4, 8]), v2=st.booleans(), ordered=st.booleans(), groups=st.integers(1, 3))
def test_gptq(seed: int, bits: int, v2: bool, ordered: bool, groups: int) -> None:
    order = np.random.default_rng(seed).permutation(32 * groups) if ordered else None
    packed = pack_gptq(matrix(seed, 32, 32 * groups), bits=bits, order=order, v2=v2)
    held = {name: array for name, (_, array) in packed.stored.items()}
    scales = held["scales"].astype(np.float32)
    found = layouts.gptq(held["qweight"], held["qzeros"], scales, held["g_idx"], bits=bits, group_size=32, zeros_less_one=not v2)
    assert np.array_equal(found, packed.values)
    if not ordered:
        alone = layouts.gptq(held["qweight"], held["qzeros"], scales, None, bits=bits, group_size=32, zeros_less_one=not v2)
        assert np.array_equal(alone, packed.values)


def test_a_zero_point_that_engines_read_in_two_ways_is_refused() -> None:
    words, zeros, scales = np.zeros((8, 8), np.int32), np.full((1, 1), -1, np.int32), np.ones((1, 8), np.float32)
    with pytest.raises(PackedError, match="gptq_v2"):
        layouts.gptq(words, zeros, scales, None, bits=4, group_size=64, zeros_less_one=True)
    assert (layouts.gptq(words, zeros, scales, None, bits=4, group_size=64, zeros_less_one=False) == -15).all()


@few
@given(
    seed=seeds, bits=st.sampled_from([4, 8]), symmetric=st.booleans(), group_size=st.sampled_from([0, 32]), rows=st.sampled_from([5, 16])
)
def test_packed_integers(seed: int, bits: int, symmetric: bool, group_size: int, rows: int) -> None:
    packed = pack_integers(matrix(seed, rows, 96), bits=bits, symmetric=symmetric, group_size=group_size)
    held = {name: array for name, (_, array) in packed.stored.items()}
    found = layouts.pack_quantized(
        held["weight_packed"], held["weight_scale"].astype(np.float32), held.get("weight_zero_point"), None,
        shape=(rows, 96), bits=bits, group_size=group_size,
    )  # fmt: skip
    assert np.array_equal(found, packed.values)


def test_columns_may_be_grouped_in_another_order() -> None:
    levels = np.arange(12, dtype=np.float32).reshape(2, 6)
    scales = np.array([[1, 10, 100], [2, 20, 200]], np.float32)
    places = np.array([2, 0, 1, 1, 0, 2], np.int32)
    found = layouts.scaled(levels, scales, None, places, group_size=2)
    assert np.array_equal(found, levels * scales[:, places])
    assert np.array_equal(layouts.scaled(levels, scales, None, np.full(6, -1), group_size=2), levels * np.repeat(scales, 2, 1))


@few
@given(seed=seeds, experts=st.integers(1, 2), blocks=st.integers(1, 2))
def test_mxfp4(seed: int, experts: int, blocks: int) -> None:
    weights = np.random.default_rng(seed).standard_normal((experts, 32 * blocks, 6)).astype(np.float32)
    packed, scales, values = pack_mxfp4(weights)
    assert np.array_equal(layouts.mxfp4(packed, scales), values)


def test_all_float8_numbers_and_all_powers_are_those_of_torch() -> None:
    torch = pytest.importorskip("torch")
    codes = np.arange(256, dtype=np.uint8)
    assert np.array_equal(torch.from_numpy(codes).view(torch.float8_e4m3fn).float().numpy(), layouts.E4M3, equal_nan=True)
    powers = torch.from_numpy(codes[:255]).view(torch.float8_e8m0fnu).float().numpy()
    assert np.array_equal(powers, layouts.e8m0(codes[:255]))
    with pytest.raises(PackedError, match="255"):
        layouts.e8m0(codes)


@pytest.mark.slow
def test_mxfp4_is_what_transformers_makes_of_it() -> None:
    torch = pytest.importorskip("torch")
    theirs = pytest.importorskip("transformers.integrations.mxfp4")
    random = np.random.default_rng(3)
    blocks = random.integers(0, 256, (2, 6, 3, 16), np.uint8)
    scales = random.integers(96, 150, (2, 6, 3), np.uint8)
    there = theirs.convert_moe_packed_tensors(torch.from_numpy(blocks), torch.from_numpy(scales), dtype=torch.float32)
    assert np.array_equal(there.numpy(), layouts.mxfp4(blocks, scales))


@few
@given(seed=seeds, rows=st.integers(1, 70), columns=st.integers(1, 70))
def test_fp8_blocks_may_be_cut_off(seed: int, rows: int, columns: int) -> None:
    random = np.random.default_rng(seed)
    codes = random.integers(0, 126, (rows, columns), np.uint8)
    scales = random.random((-(-rows // 32), -(-columns // 16))).astype(np.float32)
    found = layouts.fp8(codes, scales, block=(32, 16))
    for row, column in ((0, 0), (rows - 1, columns - 1), (rows // 2, columns // 2)):
        assert found[row, column] == layouts.E4M3[codes[row, column]] * scales[row // 32, column // 16]


@pytest.mark.slow
def test_fp8_is_what_transformers_makes_of_it() -> None:
    torch = pytest.importorskip("torch")
    theirs = pytest.importorskip("transformers.integrations.finegrained_fp8")
    random = np.random.default_rng(4)
    codes, scales = random.integers(0, 126, (64, 96), np.uint8), random.random((2, 3)).astype(np.float32)
    there = theirs.Fp8Dequantize(None)._dequantize_one(
        torch.from_numpy(codes).view(torch.float8_e4m3fn), torch.from_numpy(scales), torch.float32
    )
    assert np.array_equal(there.numpy(), layouts.fp8(codes, scales, block=(32, 32)))


@pytest.mark.parametrize("bits", [3, 4, 8])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize(("strategy", "group_size"), [("group", 32), ("channel", None)])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_packed_integers_are_what_compressed_tensors_makes_of_them(
    bits: int, symmetric: bool, strategy: str, group_size: int | None, dtype: str
) -> None:
    torch = pytest.importorskip("torch")
    pytest.importorskip("compressed_tensors")
    from compressed_tensors.compressors import PackedQuantizationCompressor
    from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme

    arguments = QuantizationArgs(num_bits=bits, type="int", strategy=strategy, group_size=group_size, symmetric=symmetric)
    scheme = QuantizationScheme(targets=["Linear"], weights=arguments)
    kind = getattr(torch, dtype)
    weight = torch.from_numpy(matrix(bits, 48, 96)).to(kind)
    n_groups = 96 // group_size if group_size else 1
    scale = (weight.float().reshape(48, n_groups, -1).abs().amax(-1) / (2 ** (bits - 1) - 1)).to(kind)
    state = {"weight": weight, "weight_scale": scale}
    if not symmetric:
        state["weight_zero_point"] = torch.from_numpy(np.random.default_rng(1).integers(-3, 3, (48, n_groups)).astype(np.int8))
    packed = PackedQuantizationCompressor.compress(state, scheme)
    there = PackedQuantizationCompressor.decompress(packed, scheme)["weight"]
    zeros = packed.get("weight_zero_point") if not symmetric else None
    here = layouts.pack_quantized(
        packed["weight_packed"].numpy(), scale.float().numpy(), None if zeros is None else zeros.numpy(), None,
        shape=packed["weight_shape"].tolist(), bits=bits, group_size=group_size or 0,
    )  # fmt: skip
    assert there.dtype == kind
    assert torch.equal(torch.from_numpy(here).to(kind), there)


@pytest.mark.parametrize(("kind", "strategy"), [("int", "channel"), ("int", "tensor"), ("float", "channel"), ("float", "block")])
def test_wide_numbers_are_what_compressed_tensors_makes_of_them(kind: str, strategy: str) -> None:
    torch = pytest.importorskip("torch")
    pytest.importorskip("compressed_tensors")
    from compressed_tensors.compressors import NaiveQuantizationCompressor
    from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme

    block = [32, 32] if strategy == "block" else None
    arguments = QuantizationArgs(num_bits=8, type=kind, strategy=strategy, block_structure=block)
    scheme = QuantizationScheme(targets=["Linear"], weights=arguments)
    weight = torch.from_numpy(matrix(9, 64, 96)).to(torch.bfloat16)
    shape = {"channel": (64, 1), "tensor": (1,), "block": (2, 3)}[strategy]
    scale = (torch.rand(shape) * 0.01 + 0.01).to(torch.bfloat16)
    packed = NaiveQuantizationCompressor.compress({"weight": weight, "weight_scale": scale}, scheme)
    there = NaiveQuantizationCompressor.decompress(packed, scheme)["weight"]
    given, held = scale.float().numpy(), packed["weight"]
    if kind == "float":
        here = layouts.fp8(held.view(torch.uint8).numpy(), given, block=(32, 32) if block else None)
    else:
        here = layouts.scaled(held.numpy().astype(np.float32), given, None, None, group_size=0 if strategy == "channel" else -1)
    assert torch.equal(torch.from_numpy(here).to(torch.bfloat16), there)
