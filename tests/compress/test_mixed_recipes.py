"""Recipes whose `tensors` give some weights a type of their own."""

from pathlib import Path

import gguf
import pytest

from trimtab.compress.base import make, read_recipe
from trimtab.core.deployment import Recipe, Settings
from trimtab.core.errors import InputError
from trimtab.core.model import Snapshot
from trimtab.engines.base import ScoreRequest
from trimtab.engines.llamacpp import LlamaCppEngine
from trimtab.sources.open import open_source
from trimtab.testing.tiny_models import write_tiny_gguf


@pytest.fixture
def tiny(tmp_path: Path) -> Snapshot:
    path = write_tiny_gguf(tmp_path / "tiny.gguf", weight_type="Q4_1", hidden_size=64, feed_forward_size=256, n_layers=2)
    return open_source(str(path), cache_dir=tmp_path / "fetched", offline=True)


def mixed(tensors: dict[str, str], rest: str = "keep", **more: object) -> Recipe:
    return Recipe(name="mine", family="gguf", engine="llamacpp", parameters={"type": rest, "tensors": tensors, **more})


def stored(snapshot: Snapshot) -> dict[str, tuple[str, bytes]]:
    """Type and bytes of each matrix."""
    tensors = gguf.GGUFReader(snapshot.path).tensors
    return {tensor.name: (tensor.tensor_type.name, tensor.data.tobytes()) for tensor in tensors if len(tensor.shape) > 1}


def test_named_weights_change_and_all_others_keep_their_bytes(tiny: Snapshot, tmp_path: Path) -> None:
    before = stored(tiny)
    after = stored(make(mixed({r"blk\.1\.ffn_down": "Q6_K", "attn_[kv]": "Q8_0"}), tiny, tmp_path / "cache"))
    assert after.keys() == before.keys()
    for name, (type_name, data) in after.items():
        if name == "blk.1.ffn_down.weight":
            assert type_name == "Q6_K"
        elif "attn_k" in name or "attn_v" in name:
            assert type_name == "Q8_0"
        else:
            assert (type_name, data) == before[name]


@pytest.mark.parametrize("rest", ["F16", "Q8_0"])
def test_all_others_may_have_a_common_type_too(tiny: Snapshot, tmp_path: Path, rest: str) -> None:
    after = stored(make(mixed({"ffn_down": "keep"}, rest), tiny, tmp_path / "cache"))
    assert {type_name for name, (type_name, _) in after.items() if "ffn_down" not in name} == {rest}
    assert all(after[name] == stored(tiny)[name] for name in after if "ffn_down" in name)


def test_a_row_that_the_blocks_do_not_divide_gets_a_wider_type(tiny: Snapshot, tmp_path: Path) -> None:
    after = stored(make(mixed({"attn_q": "Q6_K"}), tiny, tmp_path / "cache"))
    assert after["blk.0.attn_q.weight"][0] == "Q8_0"


def test_a_mixed_file_runs(tiny: Snapshot, tmp_path: Path) -> None:
    product = make(mixed({"token_embd": "Q4_0", "ffn": "Q8_0"}), tiny, tmp_path / "cache")
    engine = LlamaCppEngine(product, Settings(threads=1, context_tokens=64))
    engine.load("score")
    ids = tuple(engine.tokenize("the old man and the sea", parse_special=False))
    (result,) = engine.score([ScoreRequest(prefix_ids=ids[:2], continuations=(ids[2:],))])
    engine.close()
    assert all(value < 0 for value in result.logprobs[0])


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        ({"ffn_dwon": "Q8_0"}, "no weight's name matches 'ffn_dwon'"),
        ({"ffn": "Q8_0", "ffn_down": "Q4_0"}, "do not overlap"),
        ({"ffn": "Q9_9"}, "type 'Q9_9'"),
        ({"ffn(": "Q8_0"}, "not a regular expression"),
        ("Q8_0", "a table of name patterns"),
    ],
)
def test_mistakes_are_named(tiny: Snapshot, tmp_path: Path, tensors: dict[str, str], words: str) -> None:
    with pytest.raises(InputError, match="mine") as caught:
        make(mixed(tensors), tiny, tmp_path / "cache")
    assert words in str(caught.value)


def test_keep_alone_is_no_recipe(tiny: Snapshot, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="keep"):
        make(Recipe(name="mine", family="gguf", engine="llamacpp", parameters={"type": "keep"}), tiny, tmp_path / "cache")


def test_two_patterns_may_agree(tiny: Snapshot, tmp_path: Path) -> None:
    after = stored(make(mixed({"ffn": "Q8_0", "ffn_down": "Q8_0"}), tiny, tmp_path / "cache"))
    assert {after[name][0] for name in after if "ffn" in name} == {"Q8_0"}


@pytest.mark.parametrize("name", ["../up", "a b", ""])
def test_a_recipe_file_with_a_name_that_is_no_name_is_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / "r.toml"
    path.write_text(f'name = "{name}"\nfamily = "gguf"\nengine = "llamacpp"\n[parameters]\ntype = "Q8_0"\n')
    with pytest.raises(InputError, match=r"r\.toml"):
        read_recipe(path)
