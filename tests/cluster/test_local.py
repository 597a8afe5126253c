"""Work given to a place on this machine: the same numbers as without one, whatever the number of hands."""

import pytest

pytest.importorskip("llama_cpp")

from trimtab.core.errors import InputError
from trimtab.flows.evaluate import evaluate
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
    assert (
        not [key for key in read_step_keys(folder / "again") if key.startswith("unit/")]
        if (folder / "again" / "journal.jsonl").exists()
        else True
    )


def test_what_takes_no_cluster_is_refused(folder):
    with pytest.raises(InputError, match="--cluster scores models on suites"):
        evaluate("openai:http://127.0.0.1:9/v1#m", suites=["core"], out=folder / "no", cluster="local")
    with pytest.raises(InputError, match="takes the address of a Ray cluster"):
        levels(folder, "no", cluster="nonsense")
    with pytest.raises(InputError, match="give --cluster too"):
        levels(folder, "no", cluster_store="/tmp/x")
