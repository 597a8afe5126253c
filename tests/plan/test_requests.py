"""A user's own prompts and traces: what is read, what is refused, and what is done with requests that do not fit."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab.core.errors import InputError
from trimtab.core.files import digest_of
from trimtab.core.workload import Workload, WorkloadRequest
from trimtab.plan.requests import fitted, sampled, stratified
from trimtab.plan.workloads import load_workload

HEAD = "TIMESTAMP,ContextTokens,GeneratedTokens\n"
TRACES = Path(__file__).parents[3] / "shared" / "data" / "traces"


def prompts(tmp_path, *lines):
    path = tmp_path / "p.jsonl"
    path.write_text("\n".join(lines))
    return str(path)


def trace(tmp_path, text):
    path = tmp_path / "t.csv"
    path.write_text(text)
    return str(path)


def test_prompts_of_both_forms(tmp_path):
    chat = {"messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Why?"}], "output_tokens": 9}
    workload = load_workload(prompts(tmp_path, json.dumps({"prompt": "Name three rivers.", "max_tokens": 40}), "", json.dumps(chat)))
    assert workload.requests[0] == WorkloadRequest(prompt_tokens=0, output_tokens=40, messages=(("user", "Name three rivers."),))
    assert workload.requests[1].messages == (("system", "Be brief."), ("user", "Why?"))
    assert workload.output_tokens == 24
    other = load_workload(prompts(tmp_path, json.dumps({"prompt": "Name three lakes.", "max_tokens": 40}), json.dumps(chat)))
    assert digest_of(workload) != digest_of(other), "other prompts are another workload"


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("{", "Line 2 .* is not JSON"),
        ("[]", "Line 2 .* either 'prompt' or 'messages'"),
        ('{"text": "x"}', "either 'prompt' or 'messages'"),
        ('{"prompt": "x", "messages": []}', "either 'prompt' or 'messages'"),
        ('{"messages": []}', "at least one message"),
        ('{"messages": [{"role": "king", "content": "x"}]}', "'role' must be one of"),
        ('{"messages": [{"role": "user", "content": ["x"]}]}', "must be a string"),
        ('{"prompt": "  "}', "not empty"),
        ('{"prompt": "x", "output_tokens": 1}', "at least 2, not 1"),
        ('{"prompt": ' + "[" * 100_000, "nested too deeply|is not JSON"),
        ('{"prompt": "x", "output_tokens": true}', "at least 2, not True"),
    ],
)
def test_a_bad_line_is_named(tmp_path, line, says):
    with pytest.raises(InputError, match=says):
        load_workload(prompts(tmp_path, '{"prompt": "good"}', line))


def test_unusual_line_ends_stay_inside_their_prompt(tmp_path):
    workload = load_workload(prompts(tmp_path, json.dumps({"prompt": "one\u2028two\x85three"}, ensure_ascii=False)))
    assert workload.requests[0].messages == (("user", "one\u2028two\x85three"),)


def test_a_file_without_prompts_and_one_that_is_missing(tmp_path):
    with pytest.raises(InputError, match="holds no prompts"):
        load_workload(prompts(tmp_path, "", ""))
    with pytest.raises(InputError, match="cannot be read"):
        load_workload(str(tmp_path / "none.jsonl"))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "must begin with the line TIMESTAMP"),
        ("time,in,out\n", "must begin with the line TIMESTAMP.*; it lacks TIMESTAMP, ContextTokens, GeneratedTokens"),
        ("TIMESTAMP,GeneratedTokens,ContextTokens\n", "; it has TIMESTAMP,GeneratedTokens,ContextTokens"),
        (HEAD, "holds no requests"),
        (HEAD + "2023-11-16 18:00:00,5\n", "Line 2 .* has 2 fields"),
        (HEAD + "noon,5,5\n", "Line 2 .* 'noon' is not a time"),
        (HEAD + "2023-11-16 18:00:00,-5,5\n", "Line 2 .* ContextTokens must be a whole number of at least 1, not '-5'"),
        (HEAD + "-5,5,5\n", "Line 2 .* '-5' is not a time"),
        (HEAD + "2023-11-16 18:00:00,NaN,5\n", "ContextTokens must be a whole number of at least 1, not 'NaN'"),
        (HEAD + "2023-11-16 18:00:00,5,x\n", "GeneratedTokens must be"),
        (HEAD + "2023-11-16 18:00:00,5,\u00b2\n", "GeneratedTokens must be"),
        (HEAD + "2023-11-16 18:00:01,5,5\n2023-11-16 18:00:00.5,5,5\n", "Line 3 .* is earlier"),
    ],
)
def test_a_bad_trace_is_named(tmp_path, text, says):
    with pytest.raises(InputError, match=says):
        load_workload(trace(tmp_path, text))


def test_a_trace_keeps_its_pauses_and_says_so(tmp_path):
    rows = "".join(f"2023-11-16 18:00:{number // 10:02d}.{number % 10}000000,100,20\n" for number in range(200))
    workload = load_workload(trace(tmp_path, HEAD + rows + "2023-11-16 19:00:00,900,30\n"))
    assert "its longest pause, 3,580 s, is kept" in workload.title
    assert max(request.arrival_s for request in workload.requests) == 3600.0
    assert workload.most_tokens == 930
    assert workload.prompt_tokens == 100


def test_public_traces():
    if not TRACES.is_dir():
        pytest.skip("the public traces are not here")
    workload = load_workload(str(TRACES / "azure_llm_conv.csv"))
    assert len(workload.requests) == 19_366
    timed = sampled(workload)
    assert len(timed.requests) in (63, 64)
    assert timed.title.startswith(f"{len(timed.requests)} requests, spread over the lengths of 19,366 requests")
    assert timed.most_tokens == workload.most_tokens
    assert timed.prompt_tokens == pytest.approx(workload.prompt_tokens, rel=0.05)
    fits, said = fitted(workload, 4096, "drop")
    assert said.startswith(f"{19_366 - len(fits.requests):,} of 19,366 requests need more")


requests = st.lists(
    st.builds(WorkloadRequest, prompt_tokens=st.integers(16, 5000), output_tokens=st.integers(2, 900)), min_size=1, max_size=300
)


@given(requests, st.integers(3, 64))
def test_a_sample_keeps_order_and_both_ends(all_requests, n):
    sample = stratified(all_requests, n)
    assert len(sample) <= max(n, 1)
    places = iter(all_requests)
    assert all(any(one is other for other in places) for one in sample), "a subsequence"
    if len(all_requests) > n:
        lengths = [request.prompt_tokens for request in all_requests]
        assert {min(lengths), max(lengths)} <= {request.prompt_tokens for request in sample}
    totals = [request.prompt_tokens + request.output_tokens for request in all_requests]
    assert max(totals) in {request.prompt_tokens + request.output_tokens for request in sample}
    assert stratified(all_requests, n) == sample


@given(requests, st.integers(1000, 4000))
def test_what_is_kept_fits(all_requests, context_tokens):
    workload = Workload(name="w", prompt_tokens=16, output_tokens=2, concurrency=(1,), requests=tuple(all_requests))
    is_long = [request.prompt_tokens + request.output_tokens > context_tokens for request in all_requests]
    if not any(is_long):
        assert fitted(workload, context_tokens, "refuse") == (workload, "")
        return
    with pytest.raises(InputError, match=f"{sum(is_long)} of {len(all_requests)} requests need more"):
        fitted(workload, context_tokens, "refuse")
    cut, said = fitted(workload, context_tokens, "cut")
    assert len(cut.requests) == len(all_requests)
    assert cut.most_tokens <= context_tokens
    assert "only the end is kept" in said
    if not all(is_long):
        dropped, said = fitted(workload, context_tokens, "drop")
        assert len(dropped.requests) == len(all_requests) - sum(is_long)
        assert "left out" in said


def test_alike_requests_that_do_not_fit_are_refused():
    with pytest.raises(InputError, match="needs 640 tokens of context; the model has 512"):
        fitted(load_workload("chat"), 512, "cut")


def test_the_agent_shares_its_beginning():
    agent = load_workload("agent")
    assert 0 < agent.shared_prefix_tokens < agent.prompt_tokens - 16
