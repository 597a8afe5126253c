"""The Transformers engine beyond the contract: traffic that comes and goes, what it refuses, number formats, templates, recipes."""

import json
import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

import torch
import transformers

from trimtab.compress.base import make, read_recipe
from trimtab.core.deployment import Recipe, Settings
from trimtab.core.errors import EngineRefused, InfeasibleError, InputError
from trimtab.core.model import Snapshot
from trimtab.core.number_format import FORMAT_FILE, NumberFormat
from trimtab.engines.base import GenerateRequest, ScoreRequest, TokenEvent
from trimtab.engines.transformers import TransformersEngine
from trimtab.flows.parts.opening import recipe_named
from trimtab.sources.open import open_source, read_header
from trimtab.testing.engine_contract import all_logprobs, drain, run_all, tokens_of
from trimtab.testing.tiny_transformers import write_tiny_transformers

SETTINGS = Settings(context_tokens=512, threads=1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_transformers(tmp_path_factory.mktemp("engine") / "model")


@pytest.fixture(scope="module")
def snapshot(folder: Path) -> Snapshot:
    return open_source(str(folder), cache_dir=folder.parent / "cache")


@pytest.fixture(scope="module")
def engine(snapshot: Snapshot) -> Iterator[TransformersEngine]:
    made = TransformersEngine(snapshot, replace(SETTINGS, slots=5, batch_tokens=64))
    yield made
    made.close()


def test_log_probabilities_are_those_of_the_model_itself(folder: Path, engine: TransformersEngine) -> None:
    ids = engine.tokenize("the small boat turned slowly into the wind and the old sailor watched the water", parse_special=False)
    net = transformers.AutoModelForCausalLM.from_pretrained(str(folder), dtype=torch.float32)
    with torch.inference_mode():
        expected = torch.log_softmax(net(input_ids=torch.tensor([ids])).logits[0].double(), -1)
    engine.load("score")
    (result,) = engine.score([ScoreRequest(prefix_ids=tuple(ids[:3]), continuations=(tuple(ids[3:]), tuple(ids[3:6])))])
    own = [float(expected[place - 1, ids[place]]) for place in range(3, len(ids))]
    assert list(result.logprobs[0]) == pytest.approx(own, abs=1e-5)
    assert list(result.logprobs[1]) == pytest.approx(own[:3], abs=1e-5)


def test_answers_are_the_same_whatever_comes_and_goes_beside_them(engine: TransformersEngine) -> None:
    """Long enough that the cache grows while rows are free, prompts in parts, some cancelled; all against the scores of the very tokens."""
    chance = random.Random(3)
    engine.load("serve")
    requests = [
        GenerateRequest(
            request_id=number,
            prompt_ids=tuple(chance.randrange(4, 300) for _ in range(chance.choice((2, 9, 33, 150)))),
            max_tokens=chance.choice((1, 5, 40, 200)),
            temperature=1.0,
            seed=number,
            ignore_end=True,
        )
        for number in range(24)
    ]
    waiting = list(requests)
    events: dict[int, list[TokenEvent]] = {request.request_id: [] for request in requests}
    cancelled: set[int] = set()
    while waiting or engine.n_running:
        for _ in range(min(len(waiting), chance.randrange(3))):
            engine.submit(waiting.pop(0))
        if engine.n_running > 3 and chance.random() < 0.02:
            number = chance.choice([one.request_id for one in requests if events[one.request_id] and not events[one.request_id][-1].done])
            engine.cancel(number)
            cancelled.add(number)
        for event in engine.step():
            events[event.request_id].append(event)
    engine.load("score")
    assert cancelled
    for request in requests:
        mine = events[request.request_id]
        ids = tuple(tokens_of(mine))
        assert mine[-1].done == ("cancelled" if request.request_id in cancelled else "length")
        assert request.request_id in cancelled or len(ids) == request.max_tokens
        (result,) = engine.score([ScoreRequest(prefix_ids=request.prompt_ids, continuations=(ids,))])
        assert [event.logprob for event in mine if event.token_id is not None] == pytest.approx(list(result.logprobs[0]), abs=1e-3)


def test_a_failing_step_ends_its_requests_and_no_others(engine: TransformersEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    engine.load("serve")
    request = GenerateRequest(request_id=1, prompt_ids=(5, 6, 7), max_tokens=5, ignore_end=True)
    engine.submit(request)
    engine.step()
    server = engine._server
    assert server is not None

    def broken(*_: object) -> None:
        raise RuntimeError("no memory left. Try less")

    with monkeypatch.context() as patch:
        patch.setattr("trimtab.engines.transformers_serve.Server._decode", broken)
        (event,) = engine.step()
    assert (event.done, event.error) == ("error", "transformers could not go on: no memory left. Try less.")
    assert engine.n_running == 0
    assert len(tokens_of(run_all(engine, [request])[1])) == 5
    assert drain(engine) == {}


def test_the_template_is_rendered_as_transformers_renders_it(folder: Path, engine: TransformersEngine) -> None:
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Where is < the > boat?"}]
    tokenizer = transformers.AutoTokenizer.from_pretrained(str(folder))
    text = engine.render(messages)
    assert text == tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    ids = engine.tokenize(text, parse_special=True)
    assert ids == tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    assert engine.info().chat_template == read_header(engine.snapshot).chat_template


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"kv_type": "f16"}, "kv_type"),
        ({"prefix_cache": True}, "prefix_cache"),
        ({"speculation": "prompt-lookup"}, "speculation"),
        ({"slots": 0}, "slots"),
    ],
)
def test_settings_without_meaning_are_refused_with_the_reason(snapshot: Snapshot, settings: dict[str, object], word: str) -> None:
    assert word in TransformersEngine.refuses(snapshot, None, Settings.parse(settings))


def test_layers_go_whole_to_a_device_that_is_there(snapshot: Snapshot) -> None:
    some = TransformersEngine(snapshot, replace(SETTINGS, device_layers=1))
    with pytest.raises(EngineRefused, match="device_layers must be 0"):
        some.load("score")


def test_a_tensor_that_is_missing_is_a_refusal_and_no_random_number(folder: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    copy = write_tiny_transformers(tmp_path / "less")
    tensors = load_file(copy / "model.safetensors")
    tensors.pop("model.layers.1.mlp.up_proj.weight")
    save_file(tensors, copy / "model.safetensors", metadata={"format": "pt"})
    engine = TransformersEngine(open_source(str(copy), cache_dir=tmp_path / "cache"), SETTINGS)
    with pytest.raises(EngineRefused, match=r"1 tensors are missing.*up_proj"):
        engine.load("score")


def test_code_of_a_repository_does_not_run(folder: Path, tmp_path: Path) -> None:
    copy = write_tiny_transformers(tmp_path / "own")
    config = json.loads((copy / "config.json").read_text())
    config |= {"model_type": "somebodys-own", "auto_map": {"AutoConfig": "own.Config", "AutoModelForCausalLM": "own.Model"}}
    (copy / "config.json").write_text(json.dumps(config))
    (copy / "own.py").write_text("raise SystemExit('this must not run')\n")
    engine = TransformersEngine(open_source(str(copy), cache_dir=tmp_path / "cache"), SETTINGS)
    with pytest.raises(EngineRefused, match="transformers cannot open"):
        engine.load("score")


def test_recipes_are_links_and_a_number_format(snapshot: Snapshot, tmp_path: Path) -> None:
    made = {name: make(recipe_named(name, "transformers"), snapshot, tmp_path) for name in ("fp32", "bf16", "int8", "int4-g32", "int4-g64")}
    assert len({one.digest for one in (snapshot, *made.values())}) == 6
    for one in made.values():
        assert (one.root / "model.safetensors").resolve() == (snapshot.root / "model.safetensors").resolve()
        assert read_header(one).tensors == read_header(snapshot).tensors
        assert {file.name for file in one.files} == {file.name for file in snapshot.files} | {FORMAT_FILE}
    again = make(recipe_named("int8", "transformers"), made["int4-g32"], tmp_path / "again")
    assert again.digest == made["int8"].digest, "a format replaces another"


def test_formats_lose_more_the_fewer_bits_they_have(snapshot: Snapshot, tmp_path: Path) -> None:
    requests = [ScoreRequest(prefix_ids=(9, 17, 30), continuations=(tuple(range(40, 90)),))]
    found = {}
    for name in ("fp32", "bf16", "int8", "int4-g32", "int3"):
        engine = TransformersEngine(make(recipe_named(name, "transformers"), snapshot, tmp_path), SETTINGS)
        engine.load("score")
        found[name] = all_logprobs(engine.score(requests))
        engine.close()
    off = {name: sum(abs(a - b) for a, b in zip(values, found["fp32"], strict=True)) / len(values) for name, values in found.items()}
    assert off["fp32"] == 0 < off["bf16"] < off["int8"] < off["int4-g32"] < off["int3"]


@pytest.mark.parametrize(
    ("parameters", "word"),
    [
        ({"dtype": "float8"}, "float8"),
        ({"weights": "int8"}, "dtype"),
        ({"dtype": "bfloat16", "weights": "int4"}, "group_size"),
        ({"dtype": "bfloat16", "weights": "int4", "group_size": 48}, "group_size"),
        ({"dtype": "bfloat16", "activations": "int8"}, "activations"),
        ({"dtype": "bfloat16", "bits": 3}, "bits"),
    ],
)
def test_wrong_formats_are_named(snapshot: Snapshot, tmp_path: Path, parameters: dict[str, object], word: str) -> None:
    with pytest.raises(InputError, match=word):
        make(Recipe(name="own", family="transformers", engine="transformers", parameters=parameters), snapshot, tmp_path)


def test_a_format_that_most_weights_would_not_have_is_refused(tmp_path: Path) -> None:
    folder = write_tiny_transformers(tmp_path / "gpt2", model_type="gpt2")
    opened = open_source(str(folder), cache_dir=tmp_path / "cache")
    engine = TransformersEngine(make(recipe_named("int8", "transformers"), opened, tmp_path / "products"), SETTINGS)
    with pytest.raises(EngineRefused, match="0% of the weights"):
        engine.load("score")


def test_rows_that_do_not_divide_are_refused(snapshot: Snapshot, tmp_path: Path) -> None:
    engine = TransformersEngine(make(recipe_named("int4-g128", "transformers"), snapshot, tmp_path), SETTINGS)
    with pytest.raises(EngineRefused, match="multiple of the group size"):
        engine.load("score")


def test_a_broken_format_file_is_named(snapshot: Snapshot, tmp_path: Path) -> None:
    made = make(recipe_named("int8", "transformers"), snapshot, tmp_path)
    (made.root / FORMAT_FILE).write_text('{"schema": 2}')
    with pytest.raises(EngineRefused, match="schema"):
        TransformersEngine(made, SETTINGS).load("score")
    assert read_recipe(Path("src/trimtab/catalog/recipes/transformers-int8.toml")).parameters["weights"] == "int8"
    assert NumberFormat(dtype="bfloat16", weights="int4", group_size=64).text == "int4 g64, bfloat16"


def test_other_weights_are_not_for_this_recipe(snapshot: Snapshot, tmp_path: Path) -> None:
    with pytest.raises(InfeasibleError, match="openvino"):
        make(recipe_named("bf16", "transformers"), replace(snapshot, format="openvino"), tmp_path)
