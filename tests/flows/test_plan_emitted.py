"""A disaggregated deployment is written as both of its halves."""

import shlex

import pytest

from trimtab.core.errors import InputError
from trimtab.flows.parts.plan_emitted import emitted_service
from trimtab.plan.architectures import architecture
from trimtab.plan.devices import device
from trimtab.plan.search.serve import ServeAsk, ServePlan, search

yaml = pytest.importorskip("yaml")


@pytest.fixture(scope="module")
def split() -> ServePlan:
    """The best of those that read prompts on devices of their own."""
    ask = ServeAsk(
        architecture=architecture("llama-3.1-70b"),
        devices=(device("h100-sxm"),),
        prompt_tokens=8192,
        output_tokens=128,
        rate_per_s=50.0,
        disaggregated=True,
        pinned={"tp": 4, "pp": 1},
        objective="devices",
    )
    return next(plan for plan in search(ask).best if plan.job.prefill_devices)


@pytest.mark.parametrize(("emit", "files"), [("vllm", 2), ("sglang", 2), ("trtllm", 4)])
def test_each_half_has_its_command(split: ServePlan, emit: str, files: int) -> None:
    emitted = emitted_service(emit, split, "hf:org/model")
    assert len(emitted["files"]) == files
    started = 0
    for role in ("prefill", "decode"):
        words = shlex.split(emitted["files"][f"{role}.serve.sh"])
        assert "org/model" in words
        if emit == "trtllm":
            assert words[words.index("--config") + 1] in emitted["files"]
        note = next(note for note in emitted["notes"] if f"{role}.serve.sh" in note)
        started += int(note.split()[2]) * 4
    assert started == split.n_devices


def test_kserve_has_both_halves_in_one_file_and_ray_says_that_it_cannot(split: ServePlan) -> None:
    document = yaml.safe_load(emitted_service("kserve", split, "org/model")["files"]["kserve.yaml"])
    halves = (document["spec"], document["spec"]["prefill"])
    assert sum(half["replicas"] * half["parallelism"]["tensor"] for half in halves) == split.n_devices
    with pytest.raises(InputError, match="give kserve"):
        emitted_service("rayservice", split, "org/model")
    with pytest.raises(InputError, match="--emit"):
        emitted_service("slurm", split, "org/model")
