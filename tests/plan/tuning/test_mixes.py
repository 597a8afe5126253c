"""Mixes of types as recipes, and what an allocation chooses from."""

import re

import pytest

from trimtab.core.model import TensorInfo
from trimtab.plan.tuning.mixes import KEEP, columns_of, group_bytes, is_plain, mix_options, mix_recipe, possible_types, timing_choices
from trimtab.plan.tuning.tensor_groups import tensor_groups

BLOCKS = {"Q8_0": (32, 34), "Q6_K": (256, 210), "Q4_1": (32, 20), "Q4_0": (32, 18)}


def info(name: str, rows: int, columns: int, kind: str = "Q4_1") -> TensorInfo:
    return TensorInfo(name=name, shape=(rows, columns), type_name=kind, size_bytes=rows * columns * BLOCKS[kind][1] // BLOCKS[kind][0])


TENSORS = [info("token_embd.weight", 512, 64, "Q8_0")] + [
    info(f"blk.{layer}.{word}.weight", rows, columns)
    for layer in range(4)
    for word, rows, columns in (("attn_q", 64, 64), ("ffn_down", 64, 256), ("ffn_up", 256, 64))
]
GROUPS = tensor_groups(TENSORS, 2)
ROWS = {group.name: group for group in GROUPS}


def test_a_type_is_possible_where_its_blocks_divide_the_rows() -> None:
    types = ("Q8_0", "Q6_K", "Q4_0")
    assert possible_types(ROWS["ffn_down 0-1"], types, BLOCKS) == (KEEP, "Q8_0", "Q6_K", "Q4_0")
    assert possible_types(ROWS["attn_qo 0-1"], types, BLOCKS) == (KEEP, "Q8_0", "Q4_0")
    assert possible_types(ROWS["token_embd"], types, BLOCKS) == (KEEP, "Q4_0"), "it has Q8_0 already"


def test_a_recipe_names_what_changes_and_nothing_else() -> None:
    recipe = mix_recipe("llamacpp", {"ffn_down 0-1": "Q8_0", "attn_qo 0-1": KEEP}, GROUPS, BLOCKS)
    assert list(recipe.parameters["tensors"].values()) == ["Q8_0"]
    (pattern,) = recipe.parameters["tensors"]
    assert [tensor.name for tensor in TENSORS if re.search(pattern, tensor.name)] == ["blk.0.ffn_down.weight", "blk.1.ffn_down.weight"]
    assert recipe.name == mix_recipe("llamacpp", {"ffn_down 0-1": "Q8_0"}, GROUPS, BLOCKS).name
    assert recipe.name != mix_recipe("llamacpp", {"ffn_down 0-1": "Q4_0"}, GROUPS, BLOCKS).name
    assert mix_recipe("llamacpp", {}, GROUPS, BLOCKS).parameters == {"type": "as-shipped"}
    exact = sum(tensor.size_bytes for tensor in TENSORS) + 2 * 64 * 256 * (34 - 20) // 32
    assert recipe.bits_per_weight == round(8 * exact / sum(tensor.n_params for tensor in TENSORS), 2)


def test_openvino_mends_zero_points_only_where_there_are_some() -> None:
    all_wide = {group.name: "Q8_0" for group in GROUPS if group.place == "blocks"}
    assert mix_recipe("openvino", all_wide, GROUPS, BLOCKS).parameters["mode"] == "gguf"
    assert mix_recipe("openvino", all_wide | {"ffn_down 0-1": KEEP}, GROUPS, BLOCKS).parameters["mode"] == "gguf-exact"
    assert mix_recipe("openvino", {"token_embd": "Q4_0"}, GROUPS, BLOCKS).family == "openvino"


def test_what_is_a_mix() -> None:
    blocks = [group.name for group in GROUPS if group.place == "blocks"]
    assert is_plain({}, GROUPS)
    assert is_plain(dict.fromkeys(blocks, "Q8_0"), GROUPS)
    assert not is_plain({**dict.fromkeys(blocks, "Q8_0"), "token_embd": "Q4_0"}, GROUPS)
    assert not is_plain({blocks[0]: "Q8_0"}, GROUPS)


def test_builds_that_tell_the_rates_apart_change_one_place_to_one_type() -> None:
    possible = {group.name: possible_types(group, ("Q8_0", "Q6_K", "Q4_0"), BLOCKS) for group in GROUPS}
    choices = timing_choices(GROUPS, possible)
    assert set(choices) == {KEEP, "blocks Q8_0", "blocks Q6_K", "blocks Q4_0", "head Q4_0"}
    assert choices["blocks Q6_K"] == {"ffn_down 0-1": "Q6_K", "ffn_down 2-3": "Q6_K"}
    columns = columns_of(choices["blocks Q6_K"], GROUPS, ("blocks", "head"))
    assert columns[("blocks", "Q6_K")] == pytest.approx(4 * 64 * 256 / 1e6)
    assert columns[("head", "Q8_0")] == pytest.approx(512 * 64 / 1e6)
    assert sum(columns.values()) == pytest.approx(sum(tensor.n_params for tensor in TENSORS) / 1e6)


def test_options_have_measured_losses_rates_and_exact_bytes() -> None:
    losses = {("token_embd", "Q4_0"): 0.02, ("attn_qo 0-1", "Q8_0"): -0.0004, ("ffn_in 0-1", "Q6_K"): 0.01}
    prefill = {("blocks", "Q4_1"): 2.0, ("blocks", "Q8_0"): 1.0}
    decode = prefill | {("head", "Q8_0"): 3.0, ("head", "Q4_0"): 1.5}
    options = mix_options(GROUPS, losses, prefill, decode, BLOCKS)
    keep, narrow = options["token_embd"]
    assert (keep.type_name, narrow.type_name) == (KEEP, "Q4_0")
    assert narrow.prefill_ms == keep.prefill_ms == 0.0, "only the last token of a prompt goes through it"
    assert narrow.decode_ms == pytest.approx(keep.decode_ms / 2)
    assert (narrow.kl_nats, narrow.size_bytes) == (0.02, 512 * 64 * 18 // 32)
    wide = options["attn_qo 0-1"][1]
    assert wide.kl_nats == 0.0, "what is better than nothing is noise"
    assert wide.prefill_ms == pytest.approx(2 * 64 * 64 / 1e6)
    assert wide.size_bytes == group_bytes(ROWS["attn_qo 0-1"], "Q8_0", BLOCKS) == 2 * 64 * 64 * 34 // 32
    assert [one.type_name for one in options["ffn_in 0-1"]] == [KEEP], "no rate is known of Q6_K"
