"""A Ray cluster of a head and two nodes: the numbers of one machine, and what is lost with a node and with the head."""

import json

import pytest

pytest.importorskip("ray")
pytest.importorskip("llama_cpp")

from trimtab.core.errors import EXIT_MISSING, MissingError
from trimtab.flows.compare import compare
from trimtab.flows.evaluate import evaluate
from trimtab.flows.optimize import optimize_on_pools
from trimtab.record.run import read_step_keys
from trimtab.testing.ray_nodes import NodeShape, RayNodes

pytestmark = [pytest.mark.model, pytest.mark.slow, pytest.mark.cluster]


@pytest.fixture(scope="module")
def nodes(folder):
    """One cluster for all; its own temporary folder is short, as Ray needs it. The tests run in their order: the last one ends its head."""
    with RayNodes([NodeShape(cpus=1, resources={"pool_cpu": 1}), NodeShape(cpus=1)], has_client=False) as found:
        yield found


def levels(folder, name, on_event=lambda event: None, **options):
    model = str(folder / "model.gguf")
    return evaluate(
        f"llamacpp:{model}?recipe=llamacpp-q8_0&threads=1",
        reference=f"llamacpp:{model}?threads=1",
        suites=[str(folder / "mine.jsonl")],
        out=folder / name,
        on_event=on_event,
        **options,
    )


def gates(folder, name, **options):
    model = str(folder / "model.gguf")
    found = compare(
        f"llamacpp:{model}?threads=1",
        f"llamacpp:{model}?recipe=llamacpp-q8_0&threads=1",
        suites=[str(folder / "mine.jsonl")],
        timing=False,
        out=folder / name,
        **options,
    )
    return found["verdict"], [gate for gate in found["gates"] if gate["name"] == "mine"]


def units(folder, name):
    return [key for key in read_step_keys(folder / name) if key.startswith("unit/score/")]


def test_a_pool_that_no_node_is_in_is_refused_with_those_there_are(folder, nodes):
    with pytest.raises(MissingError, match=r"hardware pool h100; its pools are cpu \(1 node\)") as refused:
        optimize_on_pools(["cpu", "h100"], model=str(folder / "model.gguf"), out=folder / "pools", cluster=nodes.address, suites=["core"])
    assert refused.value.exit_code == EXIT_MISSING


def test_levels_and_gates_are_those_of_one_machine(folder, nodes):
    plain = levels(folder, "plain", fresh=True)
    there = levels(folder, "there", cluster=nodes.address, cluster_store=str(folder / "there-store"))
    assert there["levels"] == plain["levels"]
    assert len(units(folder, "there")) == len(set(units(folder, "there"))) > 4
    here = gates(folder, "gates-here", fresh=True)
    assert len(here[1]) == 1
    assert gates(folder, "gates-there", cluster=nodes.address, cluster_store=str(folder / "gates-store")) == here


def test_a_pool_is_searched_on_its_own_node(folder, nodes):
    said = []
    asked = {"model": str(folder / "model.gguf"), "suites": [str(folder / "mine.jsonl")], "workload": "64/16@1", "engines": ["llamacpp"]}
    found = optimize_on_pools(
        ["cpu"],
        out=folder / "searched",
        cluster=nodes.address,
        cluster_store=str(folder / "pool-store"),
        on_event=said.append,
        time_limit_s=30.0,
        **asked,
    )
    (row,) = found["pools"]
    assert (row["pool"], row["out"]) == ("cpu", str(folder / "searched" / "cpu"))
    decision = json.loads((folder / "searched" / "cpu" / "decision.json").read_text())
    assert (row["verdict"], row["chosen"]) == (decision["verdict"], decision["chosen"]["id"])
    assert row["e2e_ms"] > 0.0
    assert json.loads((folder / "searched" / "pools.json").read_text()) == found
    assert any(event.message.startswith("cpu: ") and event.phase == "time" for event in said)


def test_a_node_killed_in_the_midst_of_a_run_costs_nothing_but_time(folder, nodes):
    said = []

    def kill_one(event):
        said.append(event.message)
        if event.phase == "evaluate" and event.done and len(nodes.nodes) == 2:
            nodes.kill(nodes.nodes[1])

    found = levels(folder, "node", kill_one, cluster=nodes.address, cluster_store=str(folder / "node-store"))
    assert len(nodes.nodes) == 1
    assert found["levels"] == levels(folder, "plain")["levels"]
    assert len(units(folder, "node")) == len(set(units(folder, "node")))


def test_a_head_killed_in_the_midst_of_a_run_is_said_and_the_run_goes_on_elsewhere(folder, nodes):
    def kill_head(event):
        if event.phase == "evaluate" and event.done and nodes.head is not None:
            nodes.kill_head()

    options = {"cluster_store": str(folder / "head-store")}
    with pytest.raises(MissingError, match=r"is lost: .* run the same command") as lost:
        levels(folder, "head", kill_head, cluster=nodes.address, **options)
    assert lost.value.exit_code == EXIT_MISSING
    before = units(folder, "head")
    assert before
    found = levels(folder, "head", cluster="local", **options)
    after = units(folder, "head")
    assert after[: len(before)] == before
    assert len(after) == len(set(after)), "nothing that was acknowledged is computed again"
    assert found["levels"] == levels(folder, "plain")["levels"]
