"""Hugging Face directories from GGUF files and back: the same numbers, the same tokens, the same logits, or a refusal."""

import asyncio
import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
llama_cpp = pytest.importorskip("llama_cpp")

from safetensors.numpy import load_file  # noqa: E402

from trimtab.compress import gguf as gguf_family  # noqa: E402
from trimtab.compress import huggingface as family  # noqa: E402
from trimtab.compress import vocabulary_check  # noqa: E402
from trimtab.compress.base import load_recipes, make  # noqa: E402
from trimtab.compress.child import make_apart  # noqa: E402
from trimtab.compress.gguf import FROM_HUGGINGFACE  # noqa: E402
from trimtab.compress.grid_gguf import write_gguf  # noqa: E402
from trimtab.compress.hf_config import metadata_of_config, with_defaults  # noqa: E402
from trimtab.compress.names import Names  # noqa: E402
from trimtab.compress.vocabulary import (  # noqa: E402
    SPLITS,
    Vocabulary,
    add_to_gguf,
    to_tokenizer_json,
    vocabulary_of_folder,
    vocabulary_of_gguf,
)
from trimtab.core.deployment import Recipe  # noqa: E402
from trimtab.core.errors import InfeasibleError, InputError  # noqa: E402
from trimtab.core.model import Snapshot  # noqa: E402
from trimtab.sources.open import open_source, read_header  # noqa: E402
from trimtab.testing.tiny_models import write_tiny_gguf, write_tiny_safetensors  # noqa: E402

pytestmark = pytest.mark.model
WIKITEXT = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "text" / "wikitext2_test.txt"
RECIPES = {recipe.name: recipe for recipe in load_recipes()}
FP32, BF16 = RECIPES["huggingface-fp32"], RECIPES["huggingface-bf16"]
TOLERANCE, GELU_TOLERANCE = 5e-5, 5e-3
"""Of logits of about 5. llama.cpp looks GELU up in a table of 16-bit floats, so Gemma's agree less."""
MESSAGES = [{"role": "user", "content": "Ünï 12"}, {"role": "assistant", "content": "yes\n"}, {"role": "user", "content": " so?"}]
SMALL = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
}


def opened(path: Path, cache_dir: Path | None = None) -> Snapshot:
    return open_source(str(path), cache_dir=cache_dir or path.parent / "opened")


def metadata_of(path: Path) -> dict[str, Any]:
    return family.read_metadata(gguf.GGUFReader(path))


def tiny_gguf(folder: Path, architecture: str, weight_type: str = "F32") -> Path:
    """A tiny model whose norms and biases are no ones and zeros."""
    plain = write_tiny_gguf(folder / "plain.gguf", architecture=architecture, weight_type=weight_type)
    random = np.random.default_rng(1)
    vectors = {
        tensor.name: (random.standard_normal(int(tensor.shape[0])) * 0.3).astype(np.float32) + (0 if "bias" in tensor.name else 1)
        for tensor in gguf.GGUFReader(plain).tensors
        if len(tensor.shape) == 1
    }
    write_gguf(plain, folder / "tiny.gguf", {}, vectors)
    return folder / "tiny.gguf"


def logits_by_llamacpp(path: Path, ids: list[int]) -> np.ndarray:
    """[tokens, vocabulary], with a cache of 32-bit floats."""
    model = llama_cpp.Llama(str(path), n_ctx=256, logits_all=True, verbose=False, n_threads=1, type_k=0, type_v=0, flash_attn=False)
    model.eval(ids)
    return np.array(model.scores[: len(ids)])


def logits_by_transformers(model: Any, ids: list[int]) -> np.ndarray:
    with torch.no_grad():
        return model(torch.tensor([ids])).logits[0].numpy()


def folder_of(path: Path, config: Any, *, spm: bool = False, tied: bool = True, change: Any = None, dtype: Any = None) -> tuple[Path, Any]:
    """A random Hugging Face model with a tokenizer in the folder `path`, and the model."""
    path.mkdir(parents=True)
    held = metadata_of(write_tiny_gguf(path / "names.gguf", architecture="gemma3" if spm else "llama"))
    (path / "names.gguf").unlink()
    vocabulary = vocabulary_of_gguf(held)
    config.vocab_size = len(vocabulary.tokens) + 3
    config.tie_word_embeddings = tied
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    if change:
        change(model)
    for name, parameter in model.named_parameters():
        if parameter.ndim == 1:
            torch.nn.init.normal_(parameter, 0 if "bias" in name or "gemma" in config.model_type else 1, 0.3)
        else:
            torch.nn.init.normal_(parameter, 0, parameter.shape[-1] ** -0.5)
    if dtype:
        model = model.to(dtype)
    model.save_pretrained(path)
    write_tokenizer(path, vocabulary, held)
    return path, model.float()


def write_tokenizer(path: Path, vocabulary: Any, held: dict[str, Any]) -> None:
    (path / "tokenizer.json").write_text(json.dumps(to_tokenizer_json(vocabulary)))
    special = {"bos_token": vocabulary.tokens[vocabulary.special["bos"]], "eos_token": vocabulary.tokens[vocabulary.special["eos"]]}
    (path / "tokenizer_config.json").write_text(json.dumps({**special, "chat_template": held["tokenizer.chat_template"]}))


def change_json(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


# GGUF to Hugging Face


@pytest.mark.parametrize(("architecture", "stored"), [("llama", "Q4_1"), ("qwen2", "F16"), ("qwen3", "Q8_0"), ("gemma3", "F32")])
def test_an_expanded_file_is_the_same_model(tmp_path: Path, architecture: str, stored: str) -> None:
    path = tiny_gguf(tmp_path, architecture, stored)
    source = opened(path)
    assert family.product_bytes(FP32, source) > 0
    made = make(FP32, source, tmp_path / "cache")
    assert made.size_bytes < family.product_bytes(FP32, source)
    assert read_header(made).quantization == "none"

    tensors = load_file(made.root / "model.safetensors")
    names = Names(architecture=architecture, head_size=16)
    reader = gguf.GGUFReader(path)
    assert len(tensors) == len(reader.tensors)
    for tensor in reader.tensors:
        wide = gguf.quants.dequantize(tensor.data, tensor.tensor_type).reshape(tuple(reversed(tensor.shape)))
        if architecture == "llama" and ("attn_q." in tensor.name or "attn_k." in tensor.name):  # the formula of transformers' own reader
            wide = wide.reshape(-1, 8, 2, wide.shape[-1]).swapaxes(2, 1).reshape(wide.shape)
        if architecture == "gemma3" and "norm" in tensor.name:
            wide = wide - 1
        np.testing.assert_array_equal(tensors[names.hf(tensor.name)], wide)

    tokenizer = transformers.AutoTokenizer.from_pretrained(made.root)
    known = llama_cpp.Llama(str(path), vocab_only=True, verbose=False)
    texts = [*vocabulary_check.TEXTS, *("".join(chr(c) for c in np.random.default_rng(n).integers(32, 0x3000, 40)) for n in range(30))]
    for text in texts:
        if architecture != "qwen2" or text.isascii():  # transformers composes characters for every Qwen2, whatever tokenizer.json says
            theirs = known.tokenize(text.encode(), add_bos=False, special=True)
            assert tokenizer(text, add_special_tokens=False).input_ids == theirs, text
            assert tokenizer(text).input_ids == known.tokenize(text.encode(), add_bos=architecture == "gemma3", special=True)
    rendered = tokenizer.apply_chat_template(MESSAGES, tokenize=False, add_generation_prompt=True)
    assert rendered == transformers_template(path, tokenizer)
    assert tokenizer.eos_token_id == known.token_eos()

    model = transformers.AutoModelForCausalLM.from_pretrained(made.root, dtype=torch.float32)
    ids = np.random.default_rng(0).integers(5, 300, 100).tolist()  # longer than Gemma's window
    wide = make(RECIPES["llamacpp-f32"], source, tmp_path / "cache").path  # of packed weights llama.cpp multiplies rounded activations
    apart = np.abs(logits_by_transformers(model, ids) - logits_by_llamacpp(wide, ids)).max()
    assert apart < (GELU_TOLERANCE if architecture == "gemma3" else TOLERANCE)


def transformers_template(path: Path, tokenizer: Any) -> str:
    """The template of a GGUF file, rendered by jinja2 itself."""
    import jinja2

    environment = jinja2.Environment(trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(metadata_of(path)["tokenizer.chat_template"])
    return template.render(messages=MESSAGES, add_generation_prompt=True, bos_token=tokenizer.bos_token)


def test_other_types_are_rounded_once(tmp_path: Path) -> None:
    path = tiny_gguf(tmp_path, "llama")
    wide = load_file(make(FP32, opened(path), tmp_path / "cache").root / "model.safetensors")
    half = Recipe(name="half", family="huggingface", engine="transformers", parameters={"dtype": "float16"})
    for recipe, dtype in ((BF16, torch.bfloat16), (half, torch.float16)):
        root = make(recipe, opened(path), tmp_path / "cache").root
        model = transformers.AutoModelForCausalLM.from_pretrained(root, dtype="auto")
        assert model.dtype == dtype
        for name, parameter in model.named_parameters():
            assert torch.equal(parameter, torch.from_numpy(wide[name]).to(dtype)), name


def test_a_directory_stays_as_it_is_and_what_is_none_is_refused(tmp_path: Path) -> None:
    plain = opened(write_tiny_safetensors(tmp_path / "plain"))
    assert make(FP32, plain, tmp_path / "cache") is plain
    with pytest.raises(InfeasibleError, match="bitsandbytes"):
        make(FP32, opened(write_tiny_safetensors(tmp_path / "nf4", quantization="bitsandbytes")), tmp_path / "cache")
    with pytest.raises(InfeasibleError, match="names its matrices only"):
        make(FP32, Snapshot(source="d", format="openvino", root=tmp_path, files=()), tmp_path / "cache")
    for parameters, words in (({"dtype": "float8"}, "float8"), ({"dtype": "float32", "type": "F32"}, "unknown parameter")):
        with pytest.raises(InputError, match=words):
            make(Recipe(name="mine", family="huggingface", engine="transformers", parameters=parameters), plain, tmp_path / "cache")


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("general.architecture", "mamba", "'mamba'"),
        ("llama.expert_count", 4, "mixture of experts"),
        ("llama.feed_forward_length", [128, 64], "differ in feed_forward_length"),
        ("llama.rope.scaling.type", "yarn", "'yarn'"),
        ("llama.rope.dimension_count", 8, "partly rotated"),
        ("tokenizer.ggml.model", "bert", "'bert'"),
        ("tokenizer.ggml.pre", "viking", "'viking'"),
    ],
)
def test_files_that_have_no_such_form(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str, value: Any, words: str) -> None:
    path = write_tiny_gguf(tmp_path / "tiny.gguf")
    read = family.read_metadata
    monkeypatch.setattr(family, "read_metadata", lambda reader: {**read(reader), key: value})
    with pytest.raises(InfeasibleError, match=words):
        make(FP32, opened(path), tmp_path / "cache")
    assert not list((tmp_path / "cache").glob("huggingface*"))


# Hugging Face to GGUF


def llama(**changes: Any) -> Any:
    return transformers.LlamaConfig(**{**SMALL, **changes})


LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}


def family_config(name: str) -> Any:
    sliding = {"head_dim": 16, "query_pre_attn_scalar": 16, "sliding_window": 32}
    return {
        "llama": lambda: llama(),
        "llama, biases and wide heads": lambda: llama(head_dim=32, attention_bias=True, mlp_bias=True),
        "llama 3.1": lambda: llama(rope_theta=500000.0, rope_scaling=LLAMA3),
        "llama, linear": lambda: llama(rope_scaling={"rope_type": "linear", "factor": 4.0}),
        "mistral": lambda: transformers.MistralConfig(**SMALL, sliding_window=None),
        "qwen2": lambda: transformers.Qwen2Config(**SMALL),
        "qwen3": lambda: transformers.Qwen3Config(**SMALL, head_dim=32),
        "gemma": lambda: transformers.GemmaConfig(**SMALL, head_dim=16),
        "gemma2": lambda: transformers.Gemma2Config(**SMALL, **sliding),
        "gemma3": lambda: transformers.Gemma3TextConfig(**SMALL, **sliding),
    }[name]()


FAMILIES = (
    *("llama", "llama, biases and wide heads", "llama 3.1", "llama, linear", "mistral", "qwen2", "qwen3"),
    *("gemma", "gemma2", "gemma3"),
)


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_gives_the_logits_of_transformers(tmp_path: Path, name: str) -> None:
    gemma = name.startswith("gemma")
    path, model = folder_of(tmp_path / "model", family_config(name), spm=gemma, tied=gemma or name == "llama")
    source = opened(path)
    made = make(FROM_HUGGINGFACE, source, tmp_path / "cache")
    assert made.size_bytes < gguf_family.product_bytes(FROM_HUGGINGFACE, source)
    ids = np.random.default_rng(0).integers(5, 380, 100).tolist()
    apart = np.abs(logits_by_transformers(model, ids) - logits_by_llamacpp(made.path, ids)).max()
    assert apart < (GELU_TOLERANCE if gemma else TOLERANCE)


def replaced(rows: int, columns: int) -> Any:
    return torch.nn.Linear(columns, rows, bias=False)


def prune(widths: list[tuple[int, int, int]]) -> Any:
    """What makes layer n of a model have these query heads, key heads and feed-forward width."""

    def change(model: Any) -> None:
        for layer, (heads, kv_heads, feed) in zip(model.model.layers, widths, strict=True):
            attention = layer.self_attn
            attention.q_proj, attention.o_proj = replaced(heads * 16, 64), replaced(64, heads * 16)
            attention.k_proj, attention.v_proj = replaced(kv_heads * 16, 64), replaced(kv_heads * 16, 64)
            attention.num_key_value_groups = heads // kv_heads
            layer.mlp.gate_proj, layer.mlp.up_proj, layer.mlp.down_proj = replaced(feed, 64), replaced(feed, 64), replaced(64, feed)

    return change


def test_layers_of_different_widths(tmp_path: Path) -> None:
    """As pruning leaves a Llama: llama.cpp runs it whatever differs, OpenVINO where the number of heads does not."""
    ids = np.random.default_rng(0).integers(5, 380, 60).tolist()
    path, model = folder_of(tmp_path / "heads", llama(), change=prune([(4, 2, 96), (2, 1, 64), (4, 4, 32)]))
    made = make(FROM_HUGGINGFACE, opened(path), tmp_path / "cache")
    assert metadata_of(made.path)["deci.attention.head_count_kv"] == [2, 1, 4]
    assert np.abs(logits_by_transformers(model, ids) - logits_by_llamacpp(made.path, ids)).max() < TOLERANCE
    packed = make(RECIPES["llamacpp-q8_0"], opened(path), tmp_path / "cache")
    assert np.abs(logits_by_transformers(model, ids) - logits_by_llamacpp(packed.path, ids)).max() < 0.5

    path, model = folder_of(tmp_path / "feed", llama(), change=prune([(4, 2, 96), (4, 2, 64), (4, 2, 32)]), dtype=torch.float16)
    from trimtab.compress.openvino import import_openvino

    served = make(RECIPES["openvino-fp16"], opened(path), tmp_path / "cache")
    assert not list(served.root.glob("*.gguf"))
    assert np.abs(logits_by_transformers(model, ids) - logits_by_openvino(import_openvino(), served.root, ids)).max() < TOLERANCE
    with pytest.raises(InfeasibleError, match="number of heads"):
        make(RECIPES["openvino-fp16"], opened(tmp_path / "heads"), tmp_path / "cache")
    path, _ = folder_of(tmp_path / "qwen", transformers.Qwen2Config(**SMALL), change=prune([(4, 2, 96), (4, 2, 64), (4, 2, 32)]))
    with pytest.raises(InfeasibleError, match="different widths"):
        make(FROM_HUGGINGFACE, opened(path), tmp_path / "cache")


def logits_by_openvino(openvino: Any, folder: Path, ids: list[int]) -> np.ndarray:
    options = {"INFERENCE_PRECISION_HINT": "f32", "KV_CACHE_PRECISION": "f32"}
    compiled = openvino.Core().compile_model(str(folder / "openvino_model.xml"), "CPU", options)
    length = len(ids)
    given = {
        "input_ids": np.array([ids], np.int64),
        "attention_mask": np.ones((1, length), np.int64),
        "position_ids": np.arange(length, dtype=np.int64)[None],
        "beam_idx": np.zeros(1, np.int32),
    }
    return next(iter(compiled.create_infer_request().infer(given).values()))[0]


@pytest.mark.parametrize("name", ["llama, biases and wide heads", "llama 3.1", "llama, linear"])
def test_what_openvinos_reader_would_leave_out_is_refused(tmp_path: Path, name: str) -> None:
    path, _ = folder_of(tmp_path / "model", family_config(name))
    with pytest.raises(InfeasibleError, match="would ignore"):
        make(RECIPES["openvino-fp16"], opened(path), tmp_path / "cache")


def test_there_and_back(demo_model: Path, tmp_path: Path) -> None:
    """A GGUF file as a directory and as a file again: bit-equal tensors, the same metadata, vocabulary and quantised forms."""
    path = tiny_gguf(tmp_path, "llama")
    source = opened(path)
    folder = make(FP32, source, tmp_path / "cache")
    back = make(FROM_HUGGINGFACE, folder, tmp_path / "cache")
    old, new = ({tensor.name: tensor.data for tensor in gguf.GGUFReader(each).tensors} for each in (path, back.path))
    assert old.keys() == new.keys()
    for name, values in old.items():
        np.testing.assert_array_equal(new[name], values)
    before, after = metadata_of(path), metadata_of(back.path)
    added = {"general.quantization_version", "tokenizer.ggml.add_eos_token"}
    assert after.keys() - before.keys() == added
    assert {key: after[key] for key in before} == before
    for recipe in (RECIPES["llamacpp-q4_k_m"], RECIPES["llamacpp-f16"]):
        direct, through = (make(recipe, each, tmp_path / "cache").path for each in (source, folder))
        for one, other in zip(gguf.GGUFReader(direct).tensors, gguf.GGUFReader(through).tensors, strict=True):
            np.testing.assert_array_equal(one.data, other.data)
    apart = asyncio.run(make_apart(RECIPES["llamacpp-q4_0"], folder, tmp_path / "cache"))
    assert apart.made_by.endswith(folder.digest)


@pytest.mark.slow
def test_the_demo_model_there_and_back(demo_model: Path, tmp_path: Path) -> None:
    """4-bit weights of a real model and its real vocabulary: the same numbers, tokens and logits after both conversions."""
    source = opened(demo_model, tmp_path)
    folder = make(FP32, source, tmp_path)
    back = make(FROM_HUGGINGFACE, folder, tmp_path)
    wide = make(RECIPES["llamacpp-f32"], source, tmp_path)
    old, new = ({tensor.name: tensor for tensor in gguf.GGUFReader(each.path).tensors} for each in (source, back))
    assert old.keys() == new.keys()
    for name, tensor in old.items():
        np.testing.assert_array_equal(family.expanded(new[name]), family.expanded(tensor))
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder.root)
    first, second = (llama_cpp.Llama(str(each.path), vocab_only=True, verbose=False) for each in (source, back))
    texts = WIKITEXT.read_text(encoding="utf-8").splitlines()[:200] if WIKITEXT.is_file() else []
    for text in [*texts, *vocabulary_check.TEXTS, Path(__file__).read_text(encoding="utf-8")]:
        theirs = first.tokenize(text.encode(), add_bos=False, special=True)
        assert tokenizer(text, add_special_tokens=False).input_ids == theirs
        assert second.tokenize(text.encode(), add_bos=False, special=True) == theirs
    assert read_header(source).chat_template == read_header(folder).chat_template == read_header(back).chat_template
    ids = theirs[:64]
    np.testing.assert_array_equal(logits_by_llamacpp(back.path, ids), logits_by_llamacpp(wide.path, ids))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_weights_keep_the_type_they_are_stored_in(tmp_path: Path, dtype: Any) -> None:
    path, model = folder_of(tmp_path / "model", transformers.Qwen2Config(**SMALL), dtype=dtype)
    made = make(FROM_HUGGINGFACE, opened(path), tmp_path / "cache")
    names = Names(architecture="qwen2", head_size=16)
    kinds = set()
    for tensor in gguf.GGUFReader(made.path).tensors:
        wide = gguf.quants.dequantize(tensor.data, tensor.tensor_type).reshape(tuple(reversed(tensor.shape)))
        np.testing.assert_array_equal(wide, model.get_parameter(names.hf(tensor.name)).detach().numpy())
        kinds.add((len(tensor.shape), tensor.tensor_type.name))
    assert kinds == {(1, "F32"), (2, "F16" if dtype is torch.float16 else "BF16")}


@pytest.mark.parametrize(
    "kind", ["LlamaConfig", "MistralConfig", "Qwen2Config", "Qwen3Config", "GemmaConfig", "Gemma2Config", "Gemma3TextConfig"]
)
def test_entries_that_a_config_leaves_out_are_those_of_its_class(kind: str) -> None:
    few = {"hidden_size": 512, "num_hidden_layers": 3, "num_attention_heads": 2, "num_key_value_heads": 2, "intermediate_size": 64}
    config = getattr(transformers, kind)(**few, vocab_size=32, **({"sliding_window": None} if kind == "MistralConfig" else {}))
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(config)
    shapes = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    sparse = {**few, "model_type": config.model_type, **({"sliding_window": None} if kind == "MistralConfig" else {})}
    whole, filled = with_defaults(config.to_dict()), with_defaults(sparse)
    assert metadata_of_config(filled, shapes) == metadata_of_config(whole, shapes)
    assert filled["tie_word_embeddings"] == config.tie_word_embeddings


@pytest.fixture(scope="module")
def plain_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return folder_of(tmp_path_factory.mktemp("llama") / "model", llama())[0]


@pytest.fixture
def folder(plain_llama: Path, tmp_path: Path) -> Path:
    """A Llama of one's own to spoil."""
    return Path(shutil.copytree(plain_llama, tmp_path / "model"))


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"model_type": "mamba"}, "'mamba'"),
        ({"model_type": "mistral", "sliding_window": 64}, "slides over 64"),
        ({"rope_parameters": {"rope_type": "yarn", "factor": 2.0}}, "'yarn'"),
        ({"partial_rotary_factor": 0.5, "rope_parameters": {"partial_rotary_factor": 0.5}}, "partly rotated"),
        ({"hidden_act": "relu"}, "'relu'"),
        ({"model_type": "gemma3_text", "use_bidirectional_attention": True, "hidden_act": None}, "looks forward"),
        ({"quantization_config": {"quant_method": "awq"}}, "quantised"),
        ({"tie_word_embeddings": False}, "lm_head"),
        ({"num_hidden_layers": 4}, "Layer 3 has no"),
        ({"head_dim": 48}, "whole number of heads"),
    ],
)
def test_configs_that_have_no_gguf_form(tmp_path: Path, folder: Path, config: dict[str, Any], words: str) -> None:
    change_json(folder / "config.json", **config)
    with pytest.raises((InfeasibleError, InputError), match=words):
        make(FROM_HUGGINGFACE, opened(folder), tmp_path / "cache")
    assert not list((tmp_path / "cache").glob("gguf*"))


def test_tokenizers_that_have_no_gguf_form(tmp_path: Path, folder: Path) -> None:
    good = json.loads((folder / "tokenizer.json").read_text())
    split = {"type": "Split", "pattern": {"Regex": "[a-z]+"}, "behavior": "Isolated", "invert": False}
    for changes, words in [
        ({"pre_tokenizer": split}, "cuts text"),
        ({"normalizer": {"type": "Lowercase"}}, "Lowercase"),
        ({"model": {**good["model"], "type": "WordPiece"}}, "WordPiece"),
        ({"added_tokens": [{**good["added_tokens"][0], "id": 5000}]}, "5000"),
    ]:
        change_json(folder / "tokenizer.json", **{**good, **changes})
        with pytest.raises((InfeasibleError, InputError), match=words):
            make(FROM_HUGGINGFACE, opened(folder), tmp_path / "cache")
    (folder / "tokenizer.json").unlink()
    with pytest.raises(InputError, match=r"no tokenizer\.json"):
        make(FROM_HUGGINGFACE, opened(folder), tmp_path / "cache")


# Vocabularies


def learnt(folder: Path, pre: str) -> Any:
    """A vocabulary learnt on the texts of the check under a cut of words, as tokenizer.json in `folder`, and as ours."""
    from tokenizers import Tokenizer, trainers

    folder.mkdir()
    empty = Vocabulary(kind="bpe", pre=pre, tokens=["<|end|>"], types=[3], special={"eos": 0})
    path = folder / "tokenizer.json"
    path.write_text(json.dumps(to_tokenizer_json(empty)))
    tokenizer = Tokenizer.from_file(str(path))
    trainer = trainers.BpeTrainer(vocab_size=900, special_tokens=["<|end|>"], show_progress=False, initial_alphabet=byte_letters())
    tokenizer.train_from_iterator([text for text in vocabulary_check.TEXTS for _ in range(3)], trainer)
    tokenizer.save(str(path))
    return vocabulary_of_folder(folder, tokenizer.get_vocab_size())


def byte_letters() -> list[str]:
    from tokenizers.pre_tokenizers import ByteLevel

    return sorted(ByteLevel.alphabet())


def vocabulary_file(path: Path, vocabulary: Any) -> Path:
    """A GGUF file of a vocabulary and no model."""
    writer = gguf.GGUFWriter(path, "llama")
    add_to_gguf(writer, vocabulary)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    return path


@pytest.mark.parametrize(
    ("pre", "others"),
    [
        ("gpt-2", ("smollm", "llama-bpe", "qwen2")),
        ("smollm", ("llama-bpe", "qwen2")),  # words of its vocabulary hold no digits, so gpt-2 cuts them alike
        ("llama-bpe", ("gpt-2", "smollm", "qwen2")),
        ("qwen2", ("gpt-2", "smollm")),
    ],
)
def test_every_cut_of_words_is_llamacpps_and_no_other(tmp_path: Path, pre: str, others: tuple[str, ...]) -> None:
    """Each known cut gives llama.cpp's tokens on text of many kinds; a file that names another one fails the check."""
    vocabulary = learnt(tmp_path / "folder", pre)
    assert vocabulary.pre == pre
    vocabulary_check.check_vocabulary(vocabulary_file(tmp_path / "same.gguf", vocabulary), tmp_path / "folder", vocabulary)
    for other in others:
        wrong = dataclasses.replace(vocabulary, pre=other)
        with pytest.raises(InfeasibleError, match="differently"):
            vocabulary_check.check_vocabulary(vocabulary_file(tmp_path / f"{other}.gguf", wrong), tmp_path / "folder", wrong)
    assert {pre, *others} <= SPLITS.keys()
    held = family.read_metadata(gguf.GGUFReader(tmp_path / "same.gguf"))
    assert vocabulary_of_gguf(held) == vocabulary


def test_sentencepiece_there_and_back(demo_model: Path, tmp_path: Path) -> None:
    held = metadata_of(write_tiny_gguf(tmp_path / "tiny.gguf", architecture="gemma3"))
    vocabulary = vocabulary_of_gguf(held)
    write_tokenizer(tmp_path, vocabulary, held)
    again = vocabulary_of_folder(tmp_path, len(vocabulary.tokens) + 2)
    assert again.kind == "spm"
    assert again.tokens[:-2] == vocabulary.tokens
    assert again.add_bos
    assert not again.space_prefix
    assert again.types[-1] == 5
