"""On simulated time: swaps are saved, memory holds, everyone is answered, and nobody waits longer than is stated."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


def loaded(path: Path, name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


sim = loaded(BENCHMARKS / "parts" / "serving_sim.py", "parts.serving_sim")
swaps = loaded(BENCHMARKS / "swaps.py", "swaps_benchmark")


@pytest.mark.parametrize("kind", ["at once", "stream", "clients"])
def test_two_models_in_memory_for_one_swap_at_most_half_as_often(kind: str) -> None:
    row = swaps.simulated(kind, 200, 10.0, seed=3)
    assert row["answered"] == 1.0
    assert row["most_bytes"] <= swaps.MEMORY_BYTES
    assert row["first_come_loads"] > 80
    assert row["loads"] <= row["first_come_loads"] / 2


def test_without_patience_there_is_less_to_save() -> None:
    """The control: what saves swaps is that a loaded model keeps its turn."""
    patient, hasty = (swaps.simulated("at once", 200, patience_s, seed=3)["loads"] for patience_s in (10.0, 0.0))
    assert hasty > 2 * patient


SECONDS = st.floats(0.1, 5.0)


@settings(max_examples=60, deadline=None)
@given(
    costs=st.lists(st.tuples(st.integers(4, 9), SECONDS, SECONDS, st.floats(0.0, 1.0)), min_size=2, max_size=4),
    asks=st.lists(st.tuples(st.integers(0, 3), st.floats(0.0, 3.0)), min_size=1, max_size=60),
    patience_s=st.floats(0.0, 8.0),
)
def test_waiting_is_bounded_by_the_turns_of_the_others(
    costs: list[tuple[int, float, float, float]], asks: list[tuple[int, float]], patience_s: float
) -> None:
    """With places for all, what a request waits for is turns: k - 1 of others, its own replica's end, and its own load."""
    named = {
        f"m{number}": sim.Costs(memory_bytes=memory, load_s=load_s, service_s=service_s, stop_s=stop_s, slots=1000)
        for number, (memory, load_s, service_s, stop_s) in enumerate(costs)
    }
    simulation = sim.Simulation(named, 10, patience_s)
    at_s = 0.0
    for which, gap_s in asks:
        at_s += gap_s
        simulation.ask(f"m{which % len(costs)}", at_s)
    simulation.run()
    assert simulation.most_bytes <= 10
    longest_s = max(patience_s, *(one.load_s for one in named.values()))
    turns_s = {name: one.load_s + longest_s + one.service_s + one.stop_s for name, one in named.items()}
    for one in simulation.outcomes:
        assert one.ended_s is not None
        own = named[one.version]
        bound_s = sum(turns_s.values()) - turns_s[one.version] + own.service_s + own.stop_s + own.load_s
        assert one.granted_s - one.asked_s <= bound_s + 1e-6
