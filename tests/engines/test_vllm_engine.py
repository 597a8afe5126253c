"""What the vLLM engine says and refuses where vLLM is not, and how scored rows are read off logits."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from trimtab.core.deployment import Settings
from trimtab.core.errors import EngineRefused, MissingError
from trimtab.core.model import Snapshot, SnapshotFile
from trimtab.engines.base import ScoreRequest
from trimtab.engines.tally import Tally
from trimtab.engines.vllm import PACKAGES, VllmEngine, _version
from trimtab.engines.vllm_run import on_processor, sentence_of
from trimtab.flows.parts.opening import recipe_named


def snapshot(fmt: Any = "safetensors") -> Snapshot:
    files = (SnapshotFile(name="model.safetensors", size_bytes=1, sha256="0" * 64),)
    return Snapshot(source="it", format=fmt, root=Path("/nowhere"), files=files)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"device_layers": 0}, "the wheel that is installed"),
        ({"flash_attention": False}, "attention kernel"),
        ({"speculation": "prompt-lookup"}, "not tried"),
        ({"kv_type": "q8_0"}, "no cache type 'q8_0'"),
        ({"tensor_split": (2.0, 1.0)}, "equal shares"),
        ({"slots": 0}, "slots must be at least 1"),
    ],
)
def test_what_it_cannot_do_is_refused_without_it(settings: dict[str, Any], words: str) -> None:
    assert words in VllmEngine.refuses(snapshot(), None, Settings.parse(settings))
    with pytest.raises(EngineRefused, match=words):
        VllmEngine(snapshot(), Settings.parse(settings))


def test_what_it_opens() -> None:
    assert VllmEngine.refuses(snapshot(), None, Settings(kv_type="fp8", tensor_split=(1.0, 1.0), compile_cache=False)) == ""
    assert "not gguf" in VllmEngine.refuses(snapshot("gguf"), None, Settings())
    for name in ("fp32", "bf16"):
        assert recipe_named(name, "vllm").parameters["dtype"].endswith(name[-2:])


def test_where_it_is_not_installed_the_fix_is_an_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    if any(map(_version, PACKAGES)):
        pytest.skip("vLLM is installed here")
    monkeypatch.setenv("TRIMTAB_HOME", str(tmp_path))
    with pytest.raises(MissingError) as found:
        VllmEngine.build()
    assert f"python3 -m venv {tmp_path}/engines/vllm" in found.value.fix
    assert "TRIMTAB_VLLM_PYTHON" in found.value.fix


def test_prompts_are_computed_whole_on_processors() -> None:
    assert on_processor(None, 4096, 8) == {"enable_chunked_prefill": False, "max_num_batched_tokens": 4096}
    assert on_processor(None, 256, 8)["max_num_batched_tokens"] == 2048
    with pytest.raises(EngineRefused, match="at least 256"):
        on_processor(64, 256, 8)


def test_one_sentence_of_many_lines() -> None:
    told = "1 validation error for VllmConfig\n  Value error, the model\n has no such type [type=value_error, input_value=3]\n more"
    assert sentence_of(ValueError(told)) == "Value error, the model has no such type"
    assert sentence_of(RuntimeError("")) == "RuntimeError"


class Runner:
    """As much of vLLM's model runner as the hook touches: three sequences in one batch, computed in two parts."""

    def __init__(self, logits: Any, states: dict[str, Any], offsets: list[int]) -> None:
        self.model = SimpleNamespace(compute_logits=lambda rows: logits[rows])
        self.requests = states
        self.query_start_loc = SimpleNamespace(np=np.array(offsets))
        self.input_batch = SimpleNamespace(req_id_to_index={name: place for place, name in enumerate(states)})
        self.reported: list[dict[str, int]] = []

    def _get_prompt_logprobs_dict(self, hidden_states: Any, scheduled: dict[str, int]) -> dict[str, Any]:
        self.reported.append(scheduled)
        return {}


def test_rows_are_read_where_they_are_computed_and_as_other_engines_read_them() -> None:
    torch = pytest.importorskip("torch")
    from trimtab.engines.vllm_rows import MARK, ScoringWorker
    from trimtab.engines.vllm_score import result_of, rows_of

    torch.manual_seed(1)
    request = ScoreRequest(
        prefix_ids=(1, 2, 3),
        continuations=((4, 5, 6, 7), (8,)),
        watch=(((9, 4), (), (1,), (2, 3)), ((8,),)),
        top_k=3,
        logit_bias=((5, 1.5), (8, -2.0), (5, 0.25)),
    )
    n_rows = 3 + 6 + 3  # another sequence's, the first continuation's prompt, the second's
    logits = 3 * torch.randn(n_rows, 11)
    plain = SimpleNamespace(sampling_params=SimpleNamespace(extra_args=None), num_computed_tokens=0)
    first = SimpleNamespace(sampling_params=SimpleNamespace(extra_args={MARK: 0}), num_computed_tokens=0)
    second = SimpleNamespace(sampling_params=SimpleNamespace(extra_args={MARK: 1}), num_computed_tokens=0)
    runner = Runner(logits, {"other": plain, "a": first, "b": second}, [0, 3, 9])
    worker = ScoringWorker()
    worker.model_runner = runner
    assert worker.trimtab_attach()
    worker.trimtab_ask({branch: rows_of(request, branch) for branch in range(2)})
    rows = torch.arange(n_rows)
    runner._get_prompt_logprobs_dict(rows, {"other": 3, "a": 4, "b": 3})
    first.num_computed_tokens, runner.query_start_loc.np = 4, np.array([0, 3, 5])
    # The last two tokens of the first continuation's prompt, in a step of their own, whose rows lie elsewhere.
    runner._get_prompt_logprobs_dict(torch.tensor([0, 1, 2, 7, 8]), {"other": 3, "a": 2})
    assert len(runner.reported) == 2
    found = worker.trimtab_take()
    result = result_of(request, [found[0], found[1]])
    tally, scratch = Tally(request=request), np.empty(11, np.float32)
    for branch, offset in ((0, 3), (1, 9)):
        for place in range(len(request.continuations[branch])):
            tally.take(logits[offset + 2 + place].numpy().copy(), scratch, ((branch, place),))
    expected = tally.result()
    assert result.greedy == expected.greedy
    for one, other in zip(result.logprobs, expected.logprobs, strict=True):
        assert one == pytest.approx(other, abs=1e-5)
    for mine, theirs in zip(result.watched, expected.watched, strict=True):
        assert [pytest.approx(row, abs=1e-5) for row in theirs] == list(mine)
    for mine, theirs in zip(result.top, expected.top, strict=True):
        assert [[token for token, _ in row] for row in mine] == [[token for token, _ in row] for row in theirs]
    assert worker.trimtab_take() == {}


def test_another_vllm_is_noticed() -> None:
    pytest.importorskip("torch")
    from trimtab.engines.vllm_rows import ScoringWorker

    worker = ScoringWorker()
    worker.model_runner = SimpleNamespace()
    assert not worker.trimtab_attach()
