"""The CTranslate2 engine beyond the contract: traffic that comes and goes, chosen draws, what it refuses, recipes, headers."""

import json
import random
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("ctranslate2")

import torch
import transformers

from trimtab.compress.base import make
from trimtab.core.deployment import Recipe, Settings
from trimtab.core.errors import EngineRefused, InfeasibleError, InputError
from trimtab.core.model import Snapshot
from trimtab.describe.card import model_card
from trimtab.engines.base import GenerateRequest, ScoreRequest, TokenEvent
from trimtab.engines.ctranslate2 import CTranslate2Engine
from trimtab.engines.sampling import pick
from trimtab.engines.transformers_text import TextModels
from trimtab.flows.parts.opening import recipe_named
from trimtab.sources.open import open_source, read_header
from trimtab.testing.engine_contract import all_logprobs, run_all, tokens_of
from trimtab.testing.tiny_transformers import write_tiny_transformers

SETTINGS = Settings(context_tokens=512, threads=1, slots=5)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_transformers(tmp_path_factory.mktemp("engine") / "model")


@pytest.fixture(scope="module")
def source(folder: Path) -> Snapshot:
    return open_source(str(folder), cache_dir=folder.parent / "cache")


@pytest.fixture(scope="module")
def snapshot(source: Snapshot, folder: Path) -> Snapshot:
    return make(recipe_named("float32", "ctranslate2"), source, folder.parent / "products")


@pytest.fixture(scope="module")
def engine(snapshot: Snapshot) -> Iterator[CTranslate2Engine]:
    made = CTranslate2Engine(snapshot, SETTINGS)
    yield made
    made.close()


def test_log_probabilities_are_those_of_the_model_itself(folder: Path, engine: CTranslate2Engine) -> None:
    """Also of shorter rows beside longer ones, and of continuations of one token, which another's row tells."""
    ids = engine.tokenize("the small boat turned slowly into the wind and the old sailor watched the water", parse_special=False)
    net = transformers.AutoModelForCausalLM.from_pretrained(str(folder), dtype=torch.float32)
    with torch.inference_mode():
        expected = torch.log_softmax(net(input_ids=torch.tensor([ids])).logits[0].double(), -1)
    own = [float(expected[place - 1, ids[place]]) for place in range(3, len(ids))]
    engine.load("score")
    many = ScoreRequest(prefix_ids=tuple(ids[:3]), continuations=((ids[3],), tuple(ids[3:]), (7,), tuple(ids[3:6])), top_k=1)
    alone = ScoreRequest(prefix_ids=tuple(ids[:3]), continuations=((7,), (ids[3],)))
    found, other = engine.score([many, alone])
    assert found.logprobs[0] == pytest.approx([own[0]], abs=1e-5)
    assert found.logprobs[1] == pytest.approx(own, abs=1e-5)
    assert found.logprobs[2] == pytest.approx([float(expected[2, 7])], abs=1e-5)
    assert found.logprobs[3] == pytest.approx(own[:3], abs=1e-5)
    assert [len(row) for row in found.top] == [1, len(own), 1, 3]
    assert all_logprobs([other]) == pytest.approx([float(expected[2, 7]), own[0]], abs=1e-5)


def some_requests(chance: random.Random, count: int) -> list[GenerateRequest]:
    """Greedy and sampled ones of two kinds, prompts of one token and more, some told of other tokens."""
    return [
        GenerateRequest(
            request_id=number,
            prompt_ids=tuple(chance.randrange(4, 300) for _ in range(chance.choice((1, 2, 9, 12, 33, 150)))),
            max_tokens=chance.choice((1, 5, 40, 200)),
            temperature=(temperature := chance.choice((0.0, 1.0, 1.0, 1.5))),
            top_p=0.9 if temperature == 1.5 else 1.0,
            seed=number,
            ignore_end=True,
            top_logprobs=2 if number % 6 == 0 else 0,
        )
        for number in range(count)
    ]


def test_answers_are_the_same_whatever_comes_and_goes_beside_them(engine: CTranslate2Engine) -> None:
    """Some cancelled; all against the scores of the very tokens, and sampled ones token by token against the same request alone."""
    chance = random.Random(3)
    engine.load("serve")
    requests = some_requests(chance, 40)
    waiting = list(requests)
    events: dict[int, list[TokenEvent]] = {request.request_id: [] for request in requests}
    cancelled: set[int] = set()
    while waiting or engine.n_running:
        for _ in range(min(len(waiting), chance.randrange(4))):
            engine.submit(waiting.pop(0))
        if engine.n_running > 3 and chance.random() < 0.03:
            number = chance.choice([one.request_id for one in requests if events[one.request_id] and not events[one.request_id][-1].done])
            engine.cancel(number)
            cancelled.add(number)
        for event in engine.step():
            events[event.request_id].append(event)
    assert engine._server is not None
    assert cancelled
    assert not engine._server.waves
    alone = {one.request_id: tokens_of(run_all(engine, [one])[one.request_id]) for one in requests if one.max_tokens < 200}
    engine.load("score")
    for request in requests:
        mine = events[request.request_id]
        ids = tuple(tokens_of(mine))
        assert mine[-1].done == ("cancelled" if request.request_id in cancelled else "length")
        assert request.request_id in cancelled or len(ids) == request.max_tokens
        assert list(ids) == alone.get(request.request_id, list(ids))[: len(ids)]
        if not ids:
            continue
        (result,) = engine.score([ScoreRequest(prefix_ids=request.prompt_ids, continuations=(ids,), top_k=2)])
        served = [event for event in mine if event.token_id is not None]
        assert [event.logprob for event in served] == pytest.approx(list(result.logprobs[0]), abs=1e-3)
        for event, top in zip(served, result.top[0], strict=True):
            assert [value for _, value in event.top] == pytest.approx([value for _, value in top][: len(event.top)], abs=1e-3)
            assert len(event.top) == request.top_logprobs


def test_a_seed_gives_the_tokens_that_it_gives_in_other_engines(engine: CTranslate2Engine) -> None:
    """The library's own sampler, fed with the numbers of the request, against this project's, on the scores of the very places."""
    engine.load("serve")
    request = GenerateRequest(request_id=1, prompt_ids=(9, 17, 30), max_tokens=60, temperature=0.8, seed=11, ignore_end=True)
    ids = tokens_of(run_all(engine, [request])[1])
    engine.load("score")
    every = tuple(range(engine.vocab_size))
    (result,) = engine.score([ScoreRequest(prefix_ids=request.prompt_ids, continuations=(tuple(ids),), watch=((every,) * len(ids),))])
    rng = np.random.Generator(np.random.PCG64(request.seed))
    scratch = np.empty(engine.vocab_size, np.float32)
    expected = [pick(np.array(row, np.float32), scratch, request, rng)[0] for row in result.watched[0]]
    assert sum(a == b for a, b in zip(ids, expected, strict=True)) >= 59, "but where a number falls between two to within rounding"


def test_many_seeds_keep_the_distribution(engine: CTranslate2Engine) -> None:
    """First tokens of 2,000 requests in waves of five against their probabilities: chi-squared below its 99.99 % point."""
    engine.load("serve")
    events = run_all(
        engine,
        [
            GenerateRequest(request_id=seed, prompt_ids=(9, 17, 30), max_tokens=1, temperature=1.0, seed=seed, ignore_end=True)
            for seed in range(2000)
        ],
    )
    engine.load("score")
    every = tuple(range(engine.vocab_size))
    (result,) = engine.score([ScoreRequest(prefix_ids=(9, 17, 30), continuations=((1,),), watch=((every,),))])
    share = np.exp(np.array(result.watched[0][0]))
    counts = np.bincount([tokens_of(each)[0] for each in events.values()], minlength=len(share))
    groups = np.array_split(np.argsort(-share), 20)
    expected = np.array([2000 * share[group].sum() for group in groups])
    found = np.array([counts[group].sum() for group in groups])
    assert ((found - expected) ** 2 / expected).sum() < 51


def test_a_failing_call_ends_its_requests_and_no_others(engine: CTranslate2Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    engine.load("serve")
    request = GenerateRequest(request_id=1, prompt_ids=(5, 6, 7), max_tokens=5, ignore_end=True)
    engine.submit(request)
    engine.step()
    with monkeypatch.context() as patch:

        def broken(*_: object) -> TokenEvent:
            raise RuntimeError("no memory left. Try less")

        patch.setattr("trimtab.engines.ctranslate2_wave.Wave._event", broken)
        (event,) = engine.step()
    assert (event.done, event.error) == ("error", "CTranslate2 could not go on: no memory left. Try less.")
    assert engine.n_running == 0
    assert len(tokens_of(run_all(engine, [request])[1])) == 5


def test_closing_ends_what_runs(snapshot: Snapshot) -> None:
    other = CTranslate2Engine(snapshot, SETTINGS)
    other.load("serve")
    other.submit(GenerateRequest(request_id=1, prompt_ids=(5, 6, 7), max_tokens=400, ignore_end=True))
    other.step()
    other.close()
    assert other.n_running == 0
    assert other.step() == []


def test_logits_that_would_fill_memory_are_refused(engine: CTranslate2Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trimtab.engines.ctranslate2_serve.MOST_LOGITS_BYTES", 10_000)
    engine.load("serve")
    with pytest.raises(EngineRefused, match="top_logprobs"):
        engine.submit(GenerateRequest(request_id=1, prompt_ids=(5,), max_tokens=50, top_logprobs=1))


def test_draws_that_cannot_be_chosen_are_refused(engine: CTranslate2Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trimtab.engines.ctranslate2_serve.why_not", lambda: "this build hides them")
    engine.load("serve")
    with pytest.raises(EngineRefused, match="this build hides them"):
        engine.submit(GenerateRequest(request_id=1, prompt_ids=(5,), max_tokens=5, temperature=1.0))


def test_text_is_that_of_transformers(folder: Path, engine: CTranslate2Engine) -> None:
    texts = TextModels(folder, "model")
    for text in ("the sea <|im_start|>user", "  漢字\t🙂 don't\n", "", "naïve"):
        for parse_special in (False, True):
            (expected,) = texts.tokenize([text], parse_special=parse_special)
            assert engine.tokenize(text, parse_special=parse_special) == expected
            assert engine.detokenize(expected) == texts.detokenize(expected)
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Where is < the > boat?"}]
    assert engine.render(messages) == texts.render(messages, ())
    assert engine.info().bos_id == texts.bos_id
    assert engine.end_ids == (2,)


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"kv_type": "f16"}, "kv_type"),
        ({"prefix_cache": True}, "prefix_cache"),
        ({"device_layers": 0}, "device_layers"),
        ({"slots": 0}, "slots"),
    ],
)
def test_settings_without_meaning_are_refused_with_the_reason(snapshot: Snapshot, settings: dict[str, object], word: str) -> None:
    assert word in CTranslate2Engine.refuses(snapshot, None, Settings.parse(settings))


def test_the_product_is_opened_as_a_model(source: Snapshot, snapshot: Snapshot, tmp_path: Path) -> None:
    again = open_source(str(snapshot.root), cache_dir=tmp_path / "cache")
    assert (again.format, again.digest) == ("ctranslate2", replace(snapshot, source="").digest)
    made, header = read_header(again), read_header(source)
    assert made.chat_template == header.chat_template
    card, expected = model_card(made, again), model_card(header, source)
    assert card.n_params == pytest.approx(expected.n_params, rel=0.01), "equal tensors, as these norms are, are stored once"
    assert (card.n_layers, card.hidden_size, card.vocab_size) == (expected.n_layers, expected.hidden_size, expected.vocab_size)
    assert card.kv_bytes_per_token == expected.kv_bytes_per_token
    assert card.n_params_by_part["attention"] == expected.n_params_by_part["attention"]
    assert card.n_params_by_part["embedding"] == expected.n_params_by_part["embedding"]


def test_a_model_that_is_cut_short_is_refused(snapshot: Snapshot, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(snapshot.root, copy)
    whole = (copy / "model.bin").read_bytes()
    for size in (0, 3, 40, len(whole) // 2):
        (copy / "model.bin").write_bytes(whole[:size])
        with pytest.raises(InputError, match=r"model\.bin"):
            open_source(str(copy), cache_dir=tmp_path / "cache")


def test_a_tensor_that_is_missing_is_a_refusal_and_no_random_number(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    copy = write_tiny_transformers(tmp_path / "less")
    tensors = load_file(copy / "model.safetensors")
    tensors.pop("model.layers.1.mlp.up_proj.weight")
    save_file(tensors, copy / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InfeasibleError, match=r"1 tensors are missing.*up_proj"):
        make(recipe_named("float32", "ctranslate2"), open_source(str(copy), cache_dir=tmp_path / "cache"), tmp_path)


ROPE = {"rope_theta": 1e4, "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}


@pytest.mark.parametrize(
    ("config", "word"),
    [
        # The converter takes 8,192 for the original length whatever the configuration says, and heads for as wide as the model has it.
        ({"rope_parameters": {**ROPE, "original_max_position_embeddings": 64}}, "makes another model"),
        ({"head_dim": 32}, "cannot compute"),
    ],
)
def test_a_conversion_to_another_model_is_refused(tmp_path: Path, config: dict[str, object], word: str) -> None:
    copy = open_source(str(write_tiny_transformers(tmp_path / "model", **config)), cache_dir=tmp_path / "cache")
    with pytest.raises(InfeasibleError, match=word):
        make(recipe_named("int8", "ctranslate2"), copy, tmp_path)


def test_a_tokenizer_without_an_unknown_token_is_no_hindrance(tmp_path: Path) -> None:
    copy = open_source(str(write_tiny_transformers(tmp_path / "model", model_type="gpt2")), cache_dir=tmp_path / "cache")
    engine = CTranslate2Engine(make(recipe_named("float32", "ctranslate2"), copy, tmp_path), SETTINGS)
    engine.load("serve")
    assert len(tokens_of(run_all(engine, [GenerateRequest(request_id=1, prompt_ids=(5, 6, 7), max_tokens=5, ignore_end=True)])[1])) == 5
    engine.close()


def test_a_context_ends_with_the_window(tmp_path: Path) -> None:
    copy = open_source(
        str(write_tiny_transformers(tmp_path / "model", model_type="mistral", sliding_window=24)), cache_dir=tmp_path / "cache"
    )
    made = make(recipe_named("float32", "ctranslate2"), copy, tmp_path)
    assert CTranslate2Engine(made, replace(SETTINGS, context_tokens=None)).info().context_tokens == 24
    with pytest.raises(EngineRefused, match="24 at most"):
        CTranslate2Engine(made, SETTINGS).load("serve")


def test_what_the_library_does_not_know_is_refused(source: Snapshot, tmp_path: Path) -> None:
    mamba = open_source(str(write_tiny_transformers(tmp_path / "mamba", model_type="mamba")), cache_dir=tmp_path / "cache")
    with pytest.raises(InfeasibleError, match="MambaConfig"):
        make(recipe_named("int8", "ctranslate2"), mamba, tmp_path)
    with pytest.raises(InfeasibleError, match="openvino"):
        make(recipe_named("int8", "ctranslate2"), replace(source, format="openvino"), tmp_path)
    for parameters, word in (({"compute_type": "bfloat16"}, "bfloat16"), ({"type": "Q8_0"}, "type"), ({}, "compute_type")):
        with pytest.raises(InputError, match=word):
            make(Recipe(name="own", family="ctranslate2", engine="ctranslate2", parameters=parameters), source, tmp_path)


def test_a_format_that_this_processor_lacks_is_refused(snapshot: Snapshot, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(snapshot.root, copy)
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, "trimtab_compute_type": "float16"}))
    with pytest.raises(EngineRefused, match="float16"):
        CTranslate2Engine(replace(snapshot, root=copy), SETTINGS).load("score")
    (copy / "config.json").write_text(json.dumps({}))
    with pytest.raises(EngineRefused, match="no recipe of this engine made it"):
        CTranslate2Engine(replace(snapshot, root=copy), SETTINGS).load("score")
