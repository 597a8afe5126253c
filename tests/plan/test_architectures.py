import math

import pytest

from trimtab.core.errors import InputError
from trimtab.plan import operators
from trimtab.plan.architectures import architecture, architecture_from_shape, entries, find_architecture, near_names


@pytest.mark.parametrize("entry", entries(), ids=lambda entry: entry.architecture.name)
def test_counted_parameters_meet_the_published_totals(entry):
    shape = entry.architecture
    if entry.published_params:
        assert _agrees(operators.n_params(shape), entry.published_params)
    if entry.published_active_params:
        active = operators.active_params(shape)
        with_table = active + shape.vocab_size * shape.d_model  # makers count the embedding table or leave it out
        assert any(_agrees(count, entry.published_active_params) for count in (active, with_table))
    assert entry.published_params or entry.architecture.source.startswith(("https://", "hf:"))


def _agrees(counted, published):
    """Within 1 %, or what the maker printed, rounded or cut."""
    digits = len(str(published).rstrip("0"))
    step = 10.0 ** (len(str(published)) - digits)
    return abs(counted / published - 1) <= 0.01 or -0.5 * step <= counted - published < step


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("LLAMA3.1_405B", "llama-3.1-405b"),
        ("meta-llama/Llama-3.1-8B-Instruct", "llama-3.1-8b"),
        ("nvidia/Llama-3.1-8B-Instruct-FP8", "llama-3.1-8b"),
        ("Llama 3.3 70B", "llama-3.3-70b"),
        ("llama2-70b-99", "llama-2-70b"),
        ("mixtral-8x7b", "mixtral-8x7b"),
        ("Qwen3_30B_a3B", "qwen3-30b-a3b"),
        ("Qwen3_235B_a22B (tokendrop)", "qwen3-235b-a22b"),
        ("Qwen/Qwen3-235B-A22B-FP8", "qwen3-235b-a22b"),
        ("Qwen3-4B-Instruct-2507", "qwen3-4b"),
        ("DeepSeek-R1-0528", "deepseek-v3"),
        ("DeepSeekV3", "deepseek-v3"),
        ("DeepSeek-V3/R1", "deepseek-v3"),
        ("nvidia/DeepSeek-V3.1-NVFP4", "deepseek-v3"),
        ("MPT-7b", "mpt-7b"),
        ("GPT OSS 120B", "gpt-oss-120b"),
        ("GPT-1008.0B", "gpt-1008b"),
        ("GPT3-175B", "gpt-175b"),
        ("Llama 4 Maverick", "llama-4-maverick"),
        ("zhipuai/GLM-5", "glm-5"),
        ("GPT-13B (FasterTransformer)", "gpt-13b"),
        ("QwQ-32B", "qwen2.5-32b"),
    ],
)
def test_names_are_taken_as_people_write_them(name, expected):
    assert architecture(name).name == expected


def test_every_name_and_alias_finds_its_own_entry():
    for entry in entries():
        for name in (entry.architecture.name, entry.architecture.name.upper().replace("-", "_"), *entry.architecture.aliases):
            found = find_architecture(name)
            assert found is not None
            assert found.name == entry.architecture.name, name


def test_a_mistyped_name_is_answered_with_near_ones():
    with pytest.raises(InputError, match=r"'lama-3\.1-8b'; near names: .*llama-3\.1-8b"):
        architecture("lama-3.1-8b")
    assert "mixtral-8x7b" in near_names("mixtral 8x7")
    with pytest.raises(InputError, match="plan models"):
        architecture("zzzz")


def test_a_size_in_the_name_is_never_stripped_away():
    assert find_architecture("llama-3.1-9b") is None
    assert find_architecture("max-trainable GPT") is None
    assert find_architecture("") is None


def test_what_was_trained_without_further_token_layers_says_so():
    assert architecture("DeepSeekV3").predict_layers == 1
    assert architecture("DeepSeekV3 (w/o MTP)").predict_layers == 0


def test_a_shape_gives_what_megatron_trains():
    shape = architecture_from_shape(d_model=12288, n_layers=96, n_heads=96)
    expected = 12 * 96 * 12288**2 + 51200 * 12288 + (2 * 96 + 1) * 12288
    assert operators.shape_params(shape) == expected


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"d_model": 0, "n_layers": 1, "n_heads": 1}, "d_model 0"),
        ({"d_model": 100, "n_layers": 2, "n_heads": 3}, "does not divide by 3 heads"),
        ({"d_model": 128, "n_layers": 2, "n_heads": 8, "n_kv_heads": 3}, "3 key-value heads"),
    ],
)
def test_sizes_that_cannot_be_are_refused(sizes, message):
    with pytest.raises(InputError, match=message):
        architecture_from_shape(**sizes)


def test_shapes_are_sane():
    for entry in entries():
        shape = entry.architecture
        assert shape.source.startswith(("https://", "hf:"))
        for block in shape.blocks:
            assert block.n_layers > 0
            assert block.attention is not None or block.feedforward is not None
            if block.attention is not None:
                assert block.attention.n_heads % block.attention.n_kv_heads == 0
                assert (block.attention.kind == "sliding") == (block.attention.window_tokens > 0)
                assert (block.attention.kind == "recurrent") == (block.attention.state_values > 0)
            if block.feedforward is not None and block.feedforward.n_experts:
                assert 0 < block.feedforward.n_experts_used <= block.feedforward.n_experts
        assert math.isclose(sum(operators.params_by_part(shape).values()), operators.shape_params(shape))
