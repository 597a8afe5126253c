"""What is refused before any work starts, each in one sentence; and receipts, results at a URL, questions that travel."""

import dataclasses

import pytest

from trimtab.cluster.base import check_pools, check_results_seen, check_room, check_versions, own_versions
from trimtab.cluster.ray_place import check_address
from trimtab.cluster.store import open_results
from trimtab.cluster.units import NodeFacts, Receipt, Unit, failed
from trimtab.core.errors import EngineRefused, InfeasibleError, InputError, MissingError
from trimtab.core.evidence import Item
from trimtab.core.files import to_plain
from trimtab.engines.base import ScoreRequest
from trimtab.evaluate.requests import ItemPlace, OptionPlace, PreparedRequest, PreparedSuite
from trimtab.evaluate.runner import shards
from trimtab.evaluate.stored import prepared_from, prepared_to_plain
from trimtab.flows.parts.cluster_join import cluster_of
from trimtab.flows.parts.cluster_pools import pool_names

TRIMTAB, PROTOCOL, PYTHON = own_versions()
NODE = NodeFacts(
    id="a", name="10.0.0.2 (a)", trimtab=TRIMTAB, protocol=PROTOCOL, python=PYTHON, cpu="x", cpus=4, memory_bytes=10**9, pools=("cpu",)
)
UNIT = Unit(what="score", title="reference, part 1 of 2", key="k" * 64, spec={}, memory_bytes=2 * 10**9)


@pytest.mark.parametrize("change", [{"trimtab": "0.0.9"}, {"protocol": PROTOCOL + 1}, {"python": "3.9"}])
def test_a_node_of_another_version_is_named_with_both_versions(change):
    check_versions([NODE])
    with pytest.raises(MissingError, match=r"Node 10\.0\.0\.2 \(a\) has trimtab .* under Python .*, and this side trimtab") as refused:
        check_versions([NODE, dataclasses.replace(NODE, **change)])
    assert str(next(iter(change.values()))) in str(refused.value)


def test_a_pool_without_nodes_a_unit_without_room_and_a_node_that_sees_nothing():
    check_pools([NODE], ["cpu"], "ray://head:1")
    with pytest.raises(MissingError, match=r"pool h100; its pools are cpu \(2 nodes\)"):
        check_pools([NODE, NODE], ["h100"], "ray://head:1")
    with pytest.raises(MissingError, match="it has no pools"):
        check_pools([dataclasses.replace(NODE, pools=())], ["cpu"], "ray://head:1")
    with pytest.raises(MissingError, match=r"needs 2\.00 GB of memory, and the largest node of the cluster offers 1\.00 GB"):
        check_room([NODE], UNIT)
    check_room([dataclasses.replace(NODE, memory_bytes=3 * 10**9)], UNIT)
    with pytest.raises(InputError, match="does not see the results in /shared"):
        check_results_seen([NODE, dataclasses.replace(NODE, sees_results=False)], "/shared")


def test_what_is_typed_for_a_cluster(tmp_path, monkeypatch):
    monkeypatch.setenv("TRIMTAB_HOME", str(tmp_path))
    assert cluster_of("", "") is None
    found = cluster_of("ray://head:10001", "s3://bucket/trimtab")
    assert found is not None
    assert (found.store, found.caches) == ("s3://bucket/trimtab", tmp_path / "cache")
    assert cluster_of("local:4", str(tmp_path / "shared")).caches == tmp_path / "shared"
    for wrong in ("head", "ray://", "ray://head", "locals", "a b:1"):
        with pytest.raises(InputError, match="takes the address of a Ray cluster"):
            cluster_of(wrong, "")
    check_address("10.0.0.1:6379")
    assert pool_names("cpu, h100,cpu") == ("cpu", "h100")
    for wrong in ("cpu,,h100", "a b", "x;y"):
        with pytest.raises(InputError, match="takes names of pools"):
            pool_names(wrong)


@pytest.mark.parametrize("error", [EngineRefused("no"), InfeasibleError("out of memory"), InputError("wrong"), MissingError("gone")])
def test_what_went_wrong_there_is_raised_here_as_what_it_was(error):
    receipt = Receipt(**to_plain(failed(UNIT, error)))
    with pytest.raises(type(error)) as raised:
        receipt.raise_fault()
    assert (type(raised.value), str(raised.value)) == (type(error), str(error))
    Receipt(key="k").raise_fault()


def test_results_at_a_url_are_entries_like_those_in_a_folder(tmp_path):
    pytest.importorskip("fsspec")
    key = "ab" * 32
    there, here = open_results("memory://cluster-test"), open_results(str(tmp_path))
    for results in (there, here):
        assert results.get_json("seen", key) is None
        assert results.put_json("seen", key, [1, None, "x"]) == ""
        assert results.get_json("seen", key) == [1, None, "x"]
    there._files.write(f"seen/ab/{key}", b"damaged")
    assert there.get_json("seen", key) is None
    there.drop("seen", key)
    assert there.get_json("seen", key) is None


def suite(n_requests, n_tokens):
    def one(number):
        item = Item(
            id=f"i{number}", suite="s", cluster=f"c{number}", scorer="contrast", options=(" a", " b"), favoured=(1,), group="g", chat=True
        )
        request = ScoreRequest(
            prefix_ids=tuple(range(n_tokens - 2)), continuations=((1,), (2,)), watch=(((3,),), ((),)), logit_bias=((4, -0.5),)
        )
        places = (OptionPlace(continuation=0, first=0, n_tokens=1, watched=0), OptionPlace(continuation=1, first=0, n_tokens=1))
        return PreparedRequest(request=request, places=(ItemPlace(item=item, options=places),))

    return PreparedSuite(requests=tuple(one(number) for number in range(n_requests)))


def test_questions_come_back_from_json_as_they_were():
    asked = suite(3, 10)
    assert prepared_from(to_plain(prepared_to_plain(asked))) == asked


def test_shards_are_whole_chunks_in_order_and_hold_everything_once():
    asked = suite(25, 100)
    parts = shards(asked, chunk_tokens=450, n_chunks=2)
    assert [len(part.requests) for part in parts] == [8, 8, 8, 1], "4 requests fill a chunk of 450 tokens, 2 chunks a shard"
    assert tuple(one for part in parts for one in part.requests) == asked.requests
    assert shards(PreparedSuite(requests=())) == ()
