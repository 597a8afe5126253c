"""Work given to a place on this machine: the same numbers as without one, whatever the number of hands."""

from dataclasses import replace

import pytest

pytest.importorskip("llama_cpp")

from trimtab.core.errors import InputError
from trimtab.flows.evaluate import evaluate
from trimtab.flows.optimize import optimize, shelf_plans
from trimtab.record.run import read_step_keys

pytestmark = [pytest.mark.model, pytest.mark.slow]


def levels(folder, name, **options):
    model = str(folder / "model.gguf")
    return evaluate(
        f"llamacpp:{model}?recipe=llamacpp-q8_0&threads=1",
        reference=f"llamacpp:{model}?threads=1",
        suites=[str(folder / "mine.jsonl")],
        out=folder / name,
        **options,
    )


def test_shards_on_two_hands_give_the_numbers_of_one_go_bit_for_bit(folder):
    plain = levels(folder, "plain", fresh=True)
    one = levels(folder, "one", cluster="local", cluster_store=str(folder / "one-store"))
    two = levels(folder, "two", cluster="local:2", cluster_store=str(folder / "two-store"))
    assert plain["levels"] == one["levels"] == two["levels"]
    units = [key for key in read_step_keys(folder / "two") if key.startswith("unit/score/")]
    assert len(units) == len(set(units)) > 4, "several shards of each side, each acknowledged once"
    again = levels(folder, "again", cluster="local:2", cluster_store=str(folder / "two-store"))
    assert again["levels"] == plain["levels"]
    assert again["work"]["computed"] == 0
    assert not (folder / "again" / "journal.jsonl").exists(), "no unit was given out"


def test_what_takes_no_cluster_is_refused(folder):
    with pytest.raises(InputError, match="--cluster scores models on suites"):
        evaluate("openai:http://127.0.0.1:9/v1#m", suites=["core"], out=folder / "no", cluster="local")
    with pytest.raises(InputError, match="takes the address of a Ray cluster"):
        levels(folder, "no", cluster="nonsense")
    with pytest.raises(InputError, match="give --cluster too"):
        levels(folder, "no", cluster_store="/tmp/x")


POLICY = """
name = "own"
version = "1"
alpha = 0.05
max_attempts = 1
looks = [0.5, 1.0]
noise_multiple = 3.0
power = 0.8
[[gates]]
name = "said"
kind = "non_inferiority"
suite = "mine"
weight = "tokens"
unit = "nats/token"
margin = 0.02
control = "weights-q2_k"
min_clusters = 10
reason = "test"
"""


def screened(prepared):
    return [replace(one.request, watch=(), top_k=32) for one in prepared.only(["mine"]).requests]


def few_plans(opened, engines):
    plans, skipped = shelf_plans(opened, engines)
    return plans[:4], skipped


def test_a_search_without_a_cluster_finds_all_that_a_cluster_has_filled_in(folder, monkeypatch):
    for name in ("TIMING_S", "NEEDED_TIMING_S", "LEAST_TIMING_S"):  # nothing here needs narrow intervals
        monkeypatch.setattr(f"trimtab.flows.parts.search.{name}", 2.0)
    # Of a tiny model, timings are noise: what is timed is taken for faster, so that something is certified.
    monkeypatch.setattr("trimtab.flows.parts.search.gain_of", lambda *_: 0.5)
    monkeypatch.setattr("trimtab.flows.parts.search.gain_range", lambda *_: (0.4, 0.6))
    monkeypatch.setattr("trimtab.flows.parts.tuning.axes_for", lambda *_: {})
    monkeypatch.setattr("trimtab.flows.parts.screening.reference_screen_requests", screened)
    monkeypatch.setattr("trimtab.flows.optimize.shelf_plans", few_plans)
    (folder / "own.toml").write_text(POLICY)
    store = folder / "search-store"

    def search(name, **options):
        return optimize(
            str(folder / "model.gguf"),
            engines=["llamacpp"],
            suites=[str(folder / "mine.jsonl")],
            policy=str(folder / "own.toml"),
            workload="32/8@1",
            time_limit_s=60,
            out=folder / name,
            **options,
        )

    there = search("search", cluster="local:2", cluster_store=str(store))
    kinds = {key.rpartition("/")[0] for key in read_step_keys(folder / "search") if key.startswith("unit/")}
    assert kinds == {"unit/score", "unit/screen"}
    monkeypatch.setenv("TRIMTAB_CACHE", str(store))
    here = search("search-here")
    assert here["gates"] == there["gates"]
    assert (here["verdict"], here["reasons"]) == (there["verdict"], there["reasons"])
    assert here["work"]["computed"] == 0
