"""Whose turn it is among adapters: one at a time, in order, and nobody waits for long."""

from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from trimtab.engines.turns import JOIN_S, Turn, next_of

LONGEST_S = 5.0
STEP_S = 0.25


@dataclass(eq=False)
class Asked:
    """came_s, lasts_s: when it comes and how long it runs; began_s, ended_s, oldest_s: when it did, and when it had become the oldest"""

    adapter: str
    came_s: float
    lasts_s: float
    began_s: float | None = None
    ended_s: float = float("inf")
    oldest_s: float | None = None


def waiting(*adapters: str, came_s: float = 0.0) -> list[Asked]:
    return [Asked(adapter, came_s, 1.0) for adapter in adapters]


def test_the_oldest_goes_first_whatever_its_adapter() -> None:
    queue = waiting("b", "a", "")
    assert next_of(queue, None, 0.0) is queue[0]
    assert next_of([], None, 0.0) is None
    assert next_of([], Turn(adapter="a", began_s=0.0), 0.0) is None


def test_those_of_the_turn_join_and_overtake_for_a_while_only() -> None:
    queue = waiting("b", "a", "", "a", came_s=1.0)
    turn = Turn(adapter="a", began_s=0.0)
    assert next_of(queue, turn, 1.0 + 0.9 * JOIN_S) is queue[1]
    assert next_of(queue, turn, 1.0 + JOIN_S) is None
    assert next_of(queue, Turn(adapter="", began_s=0.0), 1.0) is queue[2], "no adapter is one like the others"
    assert next_of(queue, Turn(adapter="c", began_s=0.0), 1.0) is None
    later = Turn(adapter="a", began_s=50.0)
    assert next_of(queue, later, 50.0 + 0.9 * JOIN_S) is queue[1], "a turn is as long for one who has waited through others"


def test_whoever_came_first_joins_however_long_the_turn_has_lasted() -> None:
    queue = waiting("a", "b")
    assert next_of(queue, Turn(adapter="a", began_s=-1000.0), 1000.0) is queue[0]


asked = st.builds(
    Asked,
    st.sampled_from(["", "a", "b", "c"]),
    st.integers(0, 80).map(lambda n: n * STEP_S),
    st.integers(1, int(LONGEST_S / STEP_S)).map(lambda n: n * STEP_S),
)


@given(st.lists(asked, min_size=1, max_size=40), st.integers(1, 4))
def test_one_adapter_runs_at_a_time_and_the_oldest_waits_for_a_turn_at_most(requests: list[Asked], slots: int) -> None:
    requests.sort(key=lambda one: one.came_s)
    now_s, turn = 0.0, None
    queue: list[Asked] = []
    coming = list(requests)
    running: list[Asked] = []
    while coming or queue or running:
        running = [one for one in running if one.ended_s > now_s]
        while coming and coming[0].came_s <= now_s:
            queue.append(coming.pop(0))
        while len(running) < slots and (one := next_of(queue, turn if running else None, now_s)) is not None:
            if not running:
                turn = Turn(adapter=one.adapter, began_s=now_s)
            queue.remove(one)
            one.began_s, one.ended_s = now_s, now_s + one.lasts_s
            running.append(one)
            if queue and queue[0].oldest_s is None:
                queue[0].oldest_s = now_s
        assert len({one.adapter for one in running}) <= 1
        if queue and queue[0].oldest_s is None:
            queue[0].oldest_s = now_s
        now_s += STEP_S
    for one in requests:
        assert one.began_s is not None
        if one.oldest_s is not None:
            assert one.began_s - one.oldest_s <= JOIN_S + LONGEST_S + STEP_S
    for adapter in {one.adapter for one in requests}:
        begun = [one.began_s for one in requests if one.adapter == adapter]
        assert begun == sorted(begun), "those of one adapter keep their order"
