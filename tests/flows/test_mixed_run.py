"""`optimize` with mixes of types, end to end on a tiny random model: measured, built, looked at, and known in a second run."""

import json
import tomllib

import pytest

pytest.importorskip("llama_cpp")

from trimtab.evaluate.suites import core, registry
from trimtab.flows.optimize import optimize
from trimtab.testing.tiny_models import write_tiny_gguf

BITS = {"F32": 32.0, "F16": 16.0, "Q8_0": 8.5, "Q6_K": 6.6, "Q4_0": 4.5}

pytestmark = [pytest.mark.model, pytest.mark.slow]


def bits_as_rates(builds, ms):
    assert len(builds) == len(ms)
    assert all(each > 0 for each in ms)
    return {(place, kind): BITS[kind] for build in builds for place, kind in build}


def some_texts():
    """The shipped texts that losses are measured on, fewer of them; what else certifies is no part of this."""
    return tuple(item for item in core.core_items() if item.suite == "text")[:12]


@pytest.fixture(scope="module")
def folder(tmp_path_factory, liked):
    root = tmp_path_factory.mktemp("mixed")
    write_tiny_gguf(root / "model.gguf", architecture="llama", seed=1, weight_type="F16", feed_forward_size=256, context_tokens=4096)
    (root / "own.toml").write_text(liked.policy.replace('"said"', '"text"'))
    (root / "shelf.toml").write_text('[[entry]]\nrecipe = "llamacpp-q8_0"\n')
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRIMTAB_HOME", str(root / "state"))
        patch.setitem(registry.SHIPPED, "core", (core.VERSION, some_texts))
        patch.setattr("trimtab.flows.parts.space.SHELF", root / "shelf.toml")
        patch.setattr("trimtab.flows.parts.tuning.axes_for", lambda engine, workload, n_cores: {})
        patch.setattr("trimtab.flows.parts.mixed.MARGIN_SHARES", (1e6,))  # random weights lose much: some mix is to be tried
        # On a model as small as this, timings are noise: what they would say of a type is its bits, so that some mix is to be tried.
        patch.setattr("trimtab.flows.parts.mixed.fit_rates", bits_as_rates)
        patch.setattr("trimtab.flows.parts.mixed.keep_s", lambda search: 0.0)  # a slow machine looks at the mixes too
        patch.setattr("trimtab.flows.parts.mixed.N_BANDS", 1)
        for name in ("TIMING_S", "NEEDED_TIMING_S", "LEAST_TIMING_S"):  # most of the time of a run is spent on narrow intervals
            patch.setattr(f"trimtab.flows.parts.search.{name}", 3.0)
        yield root


def search(folder, out):
    return optimize(
        str(folder / "model.gguf"),
        policy=str(folder / "own.toml"),
        workload="32/8@1",
        engines=("llamacpp",),
        time_limit_s=300,
        mixed=True,
        out=folder / out,
    )


def test_mixes_become_candidates_and_are_known_the_second_time(folder):
    first = search(folder, "one")
    mixes = {row["id"]: row for row in first["candidates"] if "mixed" in row["id"]}
    assert mixes, [part for part in first["skipped"] if "mix" in part["what"]]
    for row in mixes.values():
        assert row["evidence"]["screen"]["kl_nats"] >= 0
        assert row["status"] in ("screened", "timed", "certified")
    assert not list((folder / "state" / "cache").glob(".mixes-*")), "the weights of measurements are thrown away"
    steps = len(list((folder / "state" / "cache" / "results" / "mixed_loss").rglob("*")))
    second = search(folder, "two")
    assert {row["id"] for row in second["candidates"] if "mixed" in row["id"]} == set(mixes)
    assert len(list((folder / "state" / "cache" / "results" / "mixed_loss").rglob("*"))) == steps
    head = json.loads((folder / "two" / "run.json").read_text())
    assert head["inputs"]["mixed"] is True
    if (first["chosen"] or {}).get("id") in mixes:
        lock = tomllib.loads((folder / "one" / "deploy.toml").read_text())
        assert lock["recipe"]["parameters"]["tensors"]
