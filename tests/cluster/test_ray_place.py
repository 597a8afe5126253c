"""What a loss means to whoever asked, with a stand-in for the process that knows Ray: it says what it is told to."""

import asyncio
import dataclasses
import sys

import pytest

pytest.importorskip("ray")

from trimtab.cluster import ray_place
from trimtab.cluster.ray_place import RayPlace
from trimtab.cluster.units import Unit
from trimtab.core.errors import EngineRefused, MissingError, TrimtabError

STAND_IN = """
import json, sys
def tell(**message):
    print(json.dumps(message), flush=True)
order = json.loads(sys.stdin.readline())
trimtab, protocol, python = order["versions"]
fact = {"trimtab": trimtab, "protocol": protocol, "python": python, "cpu": "x", "cpus": 2.0, "memory_bytes": 10**9, "sees_results": True}
nodes = [{**fact, "id": name, "name": name, "pools": pools} for name, pools in (("a", ["cpu"]), ("b", ["cpu"]), ("c", []))]
if order["address"] == "auto":
    tell(refused="ConnectionError: nothing there")
    sys.exit()
if order["address"] == "skew:1":
    nodes[1]["trimtab"] = "0.0.9"
if order["address"] == "bare:1":
    nodes[2]["silent"] = "RayTaskError: ModuleNotFoundError: No module named 'trimtab'"
tell(nodes=nodes)
seen = {}
for line in sys.stdin:
    message = json.loads(line)
    if "build" in message:
        tell(id=message["build"], builds={"a": ["good", "1.0"], "b": ["good", "1.0"] if message["engine"] == "one" else ["other", "2.0"]})
        continue
    number, key = message["do"], message["unit"]["key"]
    seen[key] = seen.get(key, 0) + 1
    if key == "gone":
        tell(gone="its head does not answer on head:1")
        sys.exit(3)
    if key == "dies":
        print("Segmentation fault", file=sys.stderr, flush=True)
        sys.exit(9)
    if key == "bug":
        tell(id=number, bug="ZeroDivisionError: division by zero")
    elif key == "refused":
        tell(id=number, receipt={"key": key, "fault": "refused", "error": "no such setting", "node": "a"})
    elif key == "always" or (key == "twice" and seen[key] < 3):
        tell(id=number, lost="NodeDiedError: the node died")
    else:
        tell(id=number, receipt={"key": key, "sha256": "s", "node": f"cpus {message['cpus']}"})
"""


@pytest.fixture
def ask(tmp_path, monkeypatch):
    """ask(keys, ...): the receipts by key, and what was said meanwhile."""
    (tmp_path / "child.py").write_text(STAND_IN)
    monkeypatch.setattr(ray_place, "CHILD", (sys.executable, str(tmp_path / "child.py")))

    def asked(*units, address="head:1", pools=(), busy="", builds=()):
        said, receipts = [], {}

        async def run():
            place = await RayPlace.open(address, target="m:n", place="/shared", seen=("seen", "k"), pools=pools, busy=busy, say=said.append)
            try:
                for engine in builds:
                    await place.check_build(engine, "good")
                await place.do(units, lambda unit, receipt: receipts.update({unit.key: receipt}))
                return place.n_at_once
            finally:
                await place.close()

        return asyncio.run(run()), receipts, said

    return asked


def unit(key, **more):
    return Unit(what="score", title=f"shard {key}", key=key, spec={}, **more)


def test_a_lost_machine_is_said_and_the_unit_is_done_elsewhere(ask):
    n_at_once, receipts, said = ask(unit("fine"), unit("twice"))
    assert n_at_once == 3
    assert {key: receipt.fault for key, receipt in receipts.items()} == {"fine": "", "twice": ""}
    assert [line.partition(";")[0] for line in said] == ["shard twice: its machine was lost (NodeDiedError: the node died)"] * 2


def test_what_is_lost_with_its_machine_again_and_again_is_no_verdict(ask):
    _, receipts, said = ask(unit("always"))
    with pytest.raises(MissingError, match="was lost with its machine 4 times, last: NodeDiedError") as lost:
        receipts["always"].raise_fault()
    assert type(lost.value) is MissingError
    assert len(said) == 3
    _, receipts, said = ask(unit("always", node="b"))
    assert receipts["always"].fault == "lost"
    assert said == [], "whoever named a node names the next one"


def test_a_lost_head_ends_it_with_a_sentence_also_for_what_was_under_way(ask):
    with pytest.raises(MissingError, match=r"is lost: its head does not answer on head:1\. .*run the same command again"):
        ask(unit("gone"))
    with pytest.raises(MissingError, match=r"its driver ended\. It said: Segmentation fault"):
        ask(unit("dies"))


def test_faults_of_nodes_come_back_as_what_they_were(ask):
    _, receipts, _ = ask(unit("refused"), unit("bug"))
    with pytest.raises(EngineRefused, match="no such setting"):
        receipts["refused"].raise_fault()
    with pytest.raises(TrimtabError, match="failed on a node: ZeroDivisionError"):
        receipts["bug"].raise_fault()


def test_a_unit_that_names_its_node_has_all_of_it_and_a_pool_is_kept_to(ask):
    n_at_once, receipts, _ = ask(unit("alone", node="b"), unit("any", pool="cpu"), pools=["cpu"], busy="a")
    assert n_at_once == 1, "neither the busy node nor the one outside the pool"
    assert receipts["alone"].node == receipts["any"].node == "cpus 2.0"


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("skew:1", r"Node b has trimtab 0\.0\.9 .*, and this side trimtab"),
        ("bare:1", r"Node c cannot be given work: it has no trimtab"),
        ("auto", r"There is no Ray cluster to work with at auto: ConnectionError: nothing there\. Fix: start one"),
    ],
)
def test_what_is_refused_before_any_work(ask, address, words):
    with pytest.raises(MissingError, match=words):
        ask(unit("fine"), address=address)


def test_other_builds_other_pools_and_too_little_memory_are_refused(ask):
    ask(unit("fine"), builds=["one"])
    with pytest.raises(MissingError, match=r"Node b has another build of two than this side: 2\.0"):
        ask(unit("fine"), builds=["one", "two"])
    with pytest.raises(MissingError, match=r"pool h100; its pools are cpu \(2 nodes\)"):
        ask(unit("fine"), pools=["h100"])
    with pytest.raises(MissingError, match=r"needs 5\.00 GB of memory"):
        ask(dataclasses.replace(unit("fine"), memory_bytes=5 * 10**9))
