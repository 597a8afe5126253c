"""A draft model in the llama.cpp engine: the answers stay, the work gets less, and its bytes are part of what was judged."""

from dataclasses import replace
from pathlib import Path

import pytest

from trimtab.core.deployment import Deployment, EngineBuild, Settings
from trimtab.core.errors import EngineRefused, InputError
from trimtab.core.model import Snapshot, SnapshotFile
from trimtab.engines.base import GenerateRequest
from trimtab.engines.protocol import decode, encode
from trimtab.testing.engine_contract import drain, run_all, tokens_of
from trimtab.testing.snapshots import snapshot_of
from trimtab.testing.tiny_models import write_tiny_gguf

pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed")

from trimtab.engines.llamacpp import LlamaCppEngine
from trimtab.engines.llamacpp_draft import Drafter, Wanted

pytestmark = pytest.mark.model
CLOSE = 5e-3


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Snapshot:
    return snapshot_of(write_tiny_gguf(tmp_path_factory.mktemp("tiny") / "tiny.gguf"))


def serving(snapshot: Snapshot, draft: Snapshot | None = None, **settings: object) -> LlamaCppEngine:
    named = {"draft": "a-draft.gguf"} if draft else {}
    given = Settings.parse({"threads": 1, "slots": 3, "context_tokens": 256, **named, **settings})
    engine = LlamaCppEngine(replace(snapshot, draft=draft), given)
    engine.load("serve")
    return engine


def request(number: int, prompt: tuple[int, ...], **more: object) -> GenerateRequest:
    return GenerateRequest(**{"request_id": number, "prompt_ids": prompt, "max_tokens": 60, "ignore_end": True, "seed": number, **more})


def steps(engine: LlamaCppEngine, asked: list[GenerateRequest]) -> tuple[dict[int, list], int]:
    """Events by request, and how many steps it took."""
    events: dict[int, list] = {}
    n_steps = 0
    for each in asked:
        engine.submit(each)
    while engine.n_running:
        n_steps += 1
        for event in engine.step():
            events.setdefault(event.request_id, []).append(event)
    return events, n_steps


@pytest.mark.parametrize("temperature", [0.0, 0.8])
@pytest.mark.parametrize("prefix_cache", [False, True])
def test_a_draft_gives_the_same_answers_in_fewer_steps(
    tiny: Snapshot, temperature: float, prefix_cache: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More requests than slots, so that a draft's sequence is used again. A random model is never sure, so here it need not be."""
    monkeypatch.setattr("trimtab.engines.llamacpp_draft.LEAST_SURE", 0.0)
    prompts = [tuple(range(10, 40)), (5, 6, 7, 5, 6, 7, 5, 6, 7, 5, 6), (9,) * 20, tuple(range(10, 30)), (9,) * 19]
    asked = [request(number, prompt, temperature=temperature) for number, prompt in enumerate(prompts, 1)]
    plain = serving(tiny)
    drafting = serving(tiny, tiny, draft_tokens=4, prefix_cache=prefix_cache)
    expected, n_plain = steps(plain, asked)
    found, n_drafting = steps(drafting, asked)
    for number in expected:
        assert tokens_of(found[number]) == tokens_of(expected[number])
        for one, two in zip(found[number], expected[number], strict=True):
            assert one.logprob == pytest.approx(two.logprob, abs=CLOSE)
        assert found[number][-1].done == "length"
    if temperature == 0.0:
        assert n_drafting < 0.4 * n_plain, "the draft is the model itself, so what it proposes comes true"
    plain.close()
    drafting.close()


def test_an_unlike_draft_changes_nothing(tiny: Snapshot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trimtab.engines.llamacpp_draft.LEAST_SURE", 0.0)
    other = snapshot_of(write_tiny_gguf(tmp_path / "other.gguf", seed=99))
    asked = [request(number, tuple(range(9 + number, 40)), temperature=0.8 * (number % 2)) for number in range(1, 5)]
    plain, drafting = serving(tiny), serving(tiny, other, draft_tokens=3)
    expected, found = run_all(plain, asked), run_all(drafting, asked)
    assert {number: tokens_of(events) for number, events in found.items()} == {n: tokens_of(events) for n, events in expected.items()}
    plain.close()
    drafting.close()


def test_only_what_the_draft_is_sure_of_is_proposed(tiny: Snapshot) -> None:
    """The random model gives no token half of the probability."""
    drafting = serving(tiny, tiny, draft_tokens=4)
    _, n_steps = steps(drafting, [request(1, tuple(range(10, 40)))])
    assert n_steps == 60
    drafting.close()


def test_a_draft_that_fails_proposes_nothing_and_goes_on(tiny: Snapshot, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trimtab.engines.llamacpp_draft.LEAST_SURE", 0.0)
    drafting = serving(tiny, tiny, draft_tokens=4)
    expected = tokens_of(run_all(drafting, [request(1, (9,) * 20)])[1])
    inner, calls = Drafter._go_on, iter(range(1000))

    def sometimes(self: Drafter, *given: object) -> object:
        if next(calls) % 7 == 3:
            raise EngineRefused("no room")
        return inner(self, *given)  # type: ignore[arg-type]

    monkeypatch.setattr(Drafter, "_go_on", sometimes)
    assert tokens_of(run_all(drafting, [request(2, (9,) * 20)])[2]) == expected
    assert next(calls) > 7
    drafting.submit(request(3, (9,) * 20))
    drafting.step()
    drafting.cancel(3)
    assert drain(drafting)[3][-1].done == "cancelled"
    drafting.close()


def test_what_the_model_said_instead_is_taken_over(tiny: Snapshot, monkeypatch: pytest.MonkeyPatch) -> None:
    """The draft proposes the same from a sequence that was corrected as from a fresh one, in calls of any size."""
    monkeypatch.setattr("trimtab.engines.llamacpp_draft.LEAST_SURE", 0.0)
    engine = serving(tiny, tiny, batch_tokens=8)
    drafter = engine._server.drafter  # type: ignore[union-attr]
    assert drafter is not None
    text = [5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16]
    first = drafter.propose([Wanted(slot=0, tokens=text, count=4), Wanted(slot=1, tokens=text[:3], count=0)])
    assert [len(tokens) for tokens in first] == [4, 0]
    corrected = [*text, first[0][0], 3]
    again = drafter.propose([Wanted(slot=0, tokens=corrected, count=4), Wanted(slot=2, tokens=corrected, count=4)])
    assert again[0] == again[1]
    engine.close()


def test_a_draft_of_another_vocabulary_is_a_mistake(tiny: Snapshot, tmp_path: Path) -> None:
    other = snapshot_of(write_tiny_gguf(tmp_path / "gemma.gguf", architecture="gemma3"))
    with pytest.raises(InputError, match=r"gemma\.gguf cannot draft for .*tiny\.gguf"):
        serving(tiny, other)


def test_a_draft_reaches_a_worker_with_its_model(tiny: Snapshot) -> None:
    drafted = replace(tiny, draft=replace(tiny, source="a-draft.gguf"))
    assert Snapshot.parse(decode(encode({"snapshot": drafted}))["snapshot"]) == drafted


@pytest.mark.parametrize(
    ("settings", "has_draft", "word"),
    [
        ({"draft": "x.gguf"}, False, "no opened model"),
        ({"speculation": "draft-model"}, False, "needs a draft"),
        ({"draft": "x.gguf", "speculation": "prompt-lookup"}, True, "no meaning with"),
        ({"draft": "x.gguf", "speculation": "none"}, True, "no meaning with"),
        ({"draft": "x.gguf", "ngram_tokens": 2}, True, "prompt lookup"),
        ({"draft": "x.gguf", "draft_tokens": 0}, True, "between 1 and 64"),
        ({}, True, "do not name"),
    ],
)
def test_settings_that_make_no_sense_together(tiny: Snapshot, settings: dict[str, object], has_draft: bool, word: str) -> None:
    snapshot = replace(tiny, draft=tiny) if has_draft else tiny
    assert word in LlamaCppEngine.refuses(snapshot, None, Settings.parse(settings))


def test_the_bytes_of_a_draft_are_identity_and_its_place_is_not(tiny: Snapshot) -> None:
    def digest(draft: str | None, sha256: str = "1" * 64) -> str:
        small = replace(tiny, files=(SnapshotFile(name="small.gguf", size_bytes=5, sha256=sha256),))
        weights = replace(tiny, draft=small if draft else None)
        build = EngineBuild(engine="llamacpp", version="1")
        settings = Settings(draft=draft, threads=2)
        return Deployment(
            weights_sha256=weights.digest,
            source_sha256=tiny.digest,
            template_sha256="",
            recipe="as-shipped",
            build=build,
            settings=settings,
        ).digest

    assert digest("here/small.gguf") == digest("there/small.gguf")
    assert len({digest("small.gguf"), digest("small.gguf", "2" * 64), digest(None)}) == 3
    drafted = replace(tiny, draft=tiny)
    assert drafted.size_bytes == 2 * tiny.size_bytes
