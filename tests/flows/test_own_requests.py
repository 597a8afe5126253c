"""A user's own prompts, counted and made with a real tokenizer."""

import asyncio
import dataclasses
import json

import pytest

pytest.importorskip("llama_cpp")

from trimtab.core.deployment import Settings
from trimtab.core.errors import InputError
from trimtab.flows.parts.opening import build_candidate, open_model, recipe_named
from trimtab.flows.parts.reference import PromptMaker
from trimtab.flows.parts.requests import ready_workload
from trimtab.plan.workloads import load_workload
from trimtab.testing.tiny_models import write_tiny_gguf

pytestmark = pytest.mark.model


@pytest.fixture
def opened(tmp_path):
    return open_model(str(write_tiny_gguf(tmp_path / "tiny.gguf")), cache_dir=tmp_path / "cache", offline=True)


@pytest.fixture
def workload(tmp_path):
    rows = [{"prompt": "boat " * 8, "output_tokens": 4}, {"prompt": "the old sailor watched the water " * 60, "output_tokens": 9}]
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return load_workload(str(tmp_path / "p.jsonl"))


@pytest.mark.parametrize("rule", ["cut", "drop"])
def test_prompts_fit_and_differ_each_time(opened, workload, rule, tmp_path):
    ready, said = asyncio.run(ready_workload(opened, workload, 200, rule))
    assert "1 of 2 requests need more than the model's context of 200 tokens" in said
    assert ready.most_tokens <= 200
    assert len(ready.requests) == (2 if rule == "cut" else 1)
    candidate = asyncio.run(build_candidate(opened, "llamacpp", recipe_named("", "llamacpp"), Settings(slots=1), products_dir=tmp_path))
    with PromptMaker(candidate, ready) as make:
        for request in ready.requests:
            first, second, again = (make.of_messages(request, seed) for seed in (1, 2, 1))
            assert first == again != second
            assert 0 < len(first) <= request.prompt_tokens
            assert first[-4:] == second[-4:]


def test_what_does_not_fit_is_refused_by_default(opened, workload):
    with pytest.raises(InputError, match="1 of 2 requests need more"):
        asyncio.run(ready_workload(opened, workload, 200, "refuse"))
    short = dataclasses.replace(workload, requests=workload.requests[:1])
    ready, said = asyncio.run(ready_workload(opened, short, 200, "refuse"))
    assert said == ""
    assert ready.requests[0].prompt_tokens > 16
