import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trimtab.core.errors import InputError
from trimtab.plan.search.feed import Supply
from trimtab.plan.search.goodput import parse_failures, parse_storage
from trimtab.plan.search.space import Space, enumerate_layouts
from trimtab.plan.search.train import KIND, TrainAsk, search
from trimtab.plan.search.why import why_not, why_others_lose
from trimtab.plan.training.layouts import DEFAULTS, layouts, parse_layout, possible

from .samples import GB80, dense, train_job

SMALL = Space(least_cp_tokens=256, vp=(1, 2), cp=(1, 2), ep=(1, 2, 4), micro_batch=(1, 2, 3), zero_stage=(0, 1, 3), recompute=(0, 2))


def ask(**changes: object) -> TrainAsk:
    plain = TrainAsk(
        architecture=dense(),
        devices=(GB80,),
        counts=(8, 16),
        seq_tokens=4096,
        global_batch_seqs=64,
        tokens=1e11,
        usd_per_device_hour={GB80.name: 2.0},
    )
    return replace(plain, **changes)  # type: ignore[arg-type]


def by_force(job, space: Space) -> set[tuple[int, ...]]:  # type: ignore[no-untyped-def]
    """Every combination of the space's values, sieved by the rules as words say them."""
    per_node = job.device.devices_per_node
    degrees = [one for one in range(1, job.n_devices + 1) if job.n_devices % one == 0]
    found = set()
    for tp, pp, cp, vp, micro, ep, zero, again, early in itertools.product(
        degrees, degrees, space.cp, space.vp, space.micro_batch, space.ep, space.zero_stage, space.recompute, space.grad_sync_each
    ):
        dp, left = divmod(job.n_devices, tp * pp * cp)
        accum, rest = divmod(job.global_batch_seqs, max(dp, 1) * micro)
        if not dp or left or rest or per_node % tp or pp * vp > job.architecture.n_layers + 2 or pp > job.architecture.n_layers:
            continue
        if (vp > 1 and accum % pp) or (zero and dp * cp == 1) or (zero > 1 and pp > 1) or (early and not (zero > 1 and accum > 1)):
            continue
        told = {"dp": dp, "tp": tp, "pp": pp, "vp": vp, "cp": cp, "ep": ep, "zero_stage": zero, "recompute": again, "micro_batch": micro}
        told |= {"grad_accum": accum, "sequence_parallel": int(tp > 1), "grad_sync_each": early}
        one = layouts(**told)
        if possible(job, one)[0]:
            found.add(tuple(one.one(0)[name] for name in DEFAULTS))
    return found


@settings(max_examples=12, deadline=None)
@given(
    n=st.sampled_from([1, 2, 4, 6, 12, 16]),
    batch=st.sampled_from([6, 8, 24]),
    n_layers=st.sampled_from([3, 4, 6]),
    n_heads=st.sampled_from([2, 4, 12]),
    n_experts=st.sampled_from([0, 4]),
)
def test_enumeration_has_exactly_what_can_run(n: int, batch: int, n_layers: int, n_heads: int, n_experts: int) -> None:
    shape = dense(
        n_layers=n_layers, d_model=n_heads * 64, n_heads=n_heads, n_kv_heads=n_heads, n_experts=n_experts, n_experts_used=min(n_experts, 2)
    )
    job = train_job(shape, n=n, batch=batch, seq=512)
    expected = by_force(job, SMALL)
    if not expected:
        with pytest.raises(InputError, match="No layout"):
            enumerate_layouts(job, SMALL)
        return
    many = enumerate_layouts(job, SMALL)
    rows = [tuple(many.one(row)[name] for name in DEFAULTS) for row in range(len(many))]
    assert len(rows) == len(set(rows))
    assert set(rows) == expected


def test_both_kinds_of_sequence_parallelism_are_tried_once_each() -> None:
    many = enumerate_layouts(train_job(), replace(SMALL, sequence_parallel=(0, 1)))
    rows = {tuple(many.one(row).values()) for row in range(len(many))}
    assert len(rows) == len(many)
    assert not (many.sequence_parallel[many.tp == 1]).any()
    assert set(many.sequence_parallel[many.tp > 1]) == {0, 1}


def test_the_same_question_has_the_same_answer() -> None:
    first, second = search(ask()), search(ask())
    assert [plan.layout for plan in first.best] == [plan.layout for plan in second.best]
    assert [plan.layout for plan in first.front] == [plan.layout for plan in second.front]


def test_the_best_is_the_fastest_that_fits_and_the_rest_follows() -> None:
    found = search(ask())
    step_s = np.concatenate([one.step_s for one in found.weighed])
    hours = [plan.hours for plan in found.best]
    assert hours == sorted(hours)
    assert 2 <= len(hours) <= 10
    sixteen = next(one for one in found.weighed if one.job.n_devices == 16)
    assert found.best[0].step_s == pytest.approx(sixteen.step_s.min())
    assert found.n_fit == np.isfinite(step_s).sum() <= found.n_layouts == len(step_s)
    best = found.best[0]
    assert sum(best.time_parts.values()) == pytest.approx(best.step_s)
    assert sum(best.memory_parts.values()) == pytest.approx(best.memory_bytes)
    assert best.usd == pytest.approx(best.hours * 16 * 2.0)
    assert best.kwh == pytest.approx(best.hours * 16 * 0.7)
    assert best.hours == pytest.approx(1e11 / best.tok_s_per_device / 16 / 3600 / best.goodput.share)


def test_nothing_that_fits_beats_the_front() -> None:
    found = search(ask())
    assert found.best[0].layout in [plan.layout for plan in found.front]
    for plan in found.front:
        for other in found.front:
            better = other.hours <= plan.hours and (other.usd or 0) <= (plan.usd or 0) and other.headroom_bytes >= plan.headroom_bytes
            assert other is plan or not better
    assert all(plan.memory_bytes * 1.1 <= GB80.memory_bytes for plan in found.front)


@settings(max_examples=6, deadline=None)
@given(gb=st.tuples(st.floats(10, 200), st.floats(10, 200)).map(sorted))
def test_more_memory_never_takes_a_layout_away(gb: list[float]) -> None:
    found = [search(ask(devices=(replace(GB80, memory_bytes=one * 1e9),), counts=(8,))) for one in gb]
    less, more = (np.isfinite(one.weighed[0].step_s) for one in found)
    assert not (less & ~more).any()


def test_objectives_choose_differently() -> None:
    fast, cheap, lean = (search(ask(objective=objective)).best[0] for objective in ("time", "money", "memory"))
    assert fast.hours <= cheap.hours
    assert (cheap.usd or 0) <= (fast.usd or 0)
    assert lean.headroom_bytes >= max(fast.headroom_bytes, cheap.headroom_bytes)


def test_limits_are_kept_and_named() -> None:
    free = search(ask(counts=(8, 16, 32)))
    budget = (free.best[0].usd or 0) * 0.99
    assert all((plan.usd or 0) <= budget for plan in search(ask(counts=(8, 16, 32), budget_usd=budget)).best)
    assert all(plan.job.n_devices <= 16 for plan in search(ask(counts=(8, 16, 32), max_devices=16)).best)
    slow = search(ask(deadline_h=1.0))
    assert slow.best == ()
    assert "--deadline gives 1.0 h" in slow.none_because
    assert "--budget gives 1 USD" in search(ask(budget_usd=1.0)).none_because
    small = search(ask(devices=(replace(GB80, memory_bytes=2e9),)))
    assert small.n_fit == 0
    assert "of the 2.0 GB of test-80gb" in small.none_because


def test_a_pinned_layout_is_the_only_one() -> None:
    found = search(ask(counts=(16,), pinned=parse_layout("tp=4,pp=2,zero=1,micro_batch=2,recompute=full")))
    for plan in found.best:
        assert (plan.layout["tp"], plan.layout["pp"], plan.layout["zero_stage"], plan.layout["micro_batch"], plan.layout["recompute"]) == (
            4,
            2,
            1,
            2,
            2,
        )
    whole = search(ask(counts=(16,), pinned={**found.best[0].layout}))
    assert whole.n_layouts == 1


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"pinned": {"tp": 3}}, "tp=3 does not divide 8 devices"),
        ({"pinned": {"tp": 5}, "counts": (5,), "global_batch_seqs": 60}, "tp=5 does not divide the 32 attention heads of test-8b"),
        (
            {"pinned": {"pp": 16, "vp": 1, "tp": 1}, "architecture": dense(n_layers=20), "counts": (16,)},
            "pp=16 x vp=1 does not divide the 20 layers",
        ),
        ({"pinned": {"micro_batch": 7}}, "does not make a batch of 64"),
        ({"counts": (0,)}, "--devices must be a whole number above zero"),
        ({"seq_tokens": 0}, "--seq must be"),
        ({"global_batch_seqs": -1}, "--global-batch must be"),
        ({"budget_usd": 0.0}, "--budget must be above zero"),
        ({"budget_usd": 5.0, "usd_per_device_hour": {}}, "test-80gb has none"),
        ({"max_devices": 4}, "--devices begins at 8"),
        ({"devices": ()}, "--hardware"),
        ({"global_batch_seqs": 7, "counts": (1024,), "architecture": dense(n_layers=3)}, "No layout of test-8b divides 1024 test-80gb"),
    ],
)
def test_a_question_without_an_answer_is_refused_in_one_sentence(changes: dict[str, object], words: str) -> None:
    with pytest.raises(InputError) as refused:
        search(ask(**changes))
    assert words in str(refused.value)
    assert "\n" not in str(refused.value)


def test_every_loser_is_told_why_and_truly() -> None:
    found = search(ask(architecture=dense("test-30b", 48, 7168, 56, 8, 20480), counts=(2, 16), global_batch_seqs=32))
    losses = why_others_lose(found)
    mine = next(one for one in found.weighed if one.job == found.best[0].job)
    for loss in losses:
        if loss.dimension in DEFAULTS:
            rows = getattr(mine.layouts, loss.dimension) == loss.plan.layout[loss.dimension]  # type: ignore[union-attr]
            best = mine.step_s[rows].min()
            assert (loss.slower is None) == math.isinf(best)
            assert loss.slower is None or loss.slower == pytest.approx(best / found.best[0].step_s - 1.0)
            assert loss.slower is None or loss.slower >= 0
    said = " | ".join(loss.sentence for loss in losses)
    assert "needs" in said
    assert "GB of 80 GB" in said
    assert "slower" in said
    assert " more of " in said
    assert any(loss.dimension == "devices" for loss in losses)


def test_one_alternative_is_told_why() -> None:
    found = search(ask(counts=(16,)))
    best = found.best[0]
    assert why_not(found, {"tp": 8}).slower is not None
    assert "tp=16" in why_not(found, {"tp": 16}).sentence
    assert why_not(found, {"tp": 16}).plan is not None
    assert "does not" in why_not(found, {"tp": 3}).sentence
    same = why_not(found, {"tp": best.layout["tp"]})
    assert same.slower == pytest.approx(0.0)
    assert "as fast" in same.sentence


def test_the_ten_best_are_of_ten_kinds() -> None:
    found = search(ask(counts=(16, 32)))
    kinds = [(plan.job.n_devices, *(plan.layout[name] for name in KIND)) for plan in found.best]
    assert len(kinds) == len(set(kinds))
    everything = np.concatenate([one.step_s for one in found.weighed if one.job.n_devices == 32])
    rest = np.sort(everything[np.isfinite(everything)])
    assert found.best[0].step_s == pytest.approx(rest[0])


def test_a_run_that_waits_for_data_takes_as_long_as_its_data() -> None:
    free = search(ask())
    need = free.best[0].tok_s_per_device * 16 * 4.0
    fed = search(ask(supply=Supply(disk_bytes_s=need / 2)))
    assert fed.best[0].hours == pytest.approx(2 * free.best[0].hours, rel=0.01)
    assert fed.best[0].feed is not None
    assert fed.best[0].feed.bound == "disk"
    enough = search(ask(supply=Supply(disk_bytes_s=need * 10)))
    assert enough.best[0].hours == pytest.approx(free.best[0].hours)
    assert free.best[0].feed is None


def test_a_worse_machine_takes_longer() -> None:
    hours = [search(ask(failures=parse_failures(rate), storage=parse_storage("1GB/s"))).best[0].hours for rate in ("1e-6", "1e-4", "1e-2")]
    assert hours == sorted(hours)
    assert hours[2] > 1.1 * hours[0]


def test_short_pieces_of_a_sequence_are_tried_only_when_pinned() -> None:
    assert set(enumerate_layouts(train_job(seq=8192), Space()).cp) == {1, 2}
    assert set(enumerate_layouts(train_job(seq=4096), Space(), {"cp": 8}).cp) == {8}


def test_pipelines_are_sharded_only_by_frameworks_that_do_it() -> None:
    for framework, sharded in (("megatron", False), ("torchtitan", True)):
        many = search(ask(counts=(16,), framework=framework)).weighed[0].layouts
        assert bool(((many.pp > 1) & (many.zero_stage > 1)).any()) == sharded


@pytest.mark.parametrize(
    ("unknown", "words"),
    [
        ({"memory_bytes": 0.0}, "The memory of test-80gb is not known"),
        ({"memory_bytes_s": 0.0}, "The memory bandwidth of test-80gb is not known"),
        ({"peak_flop_s": {}}, "The rate of matrix products of test-80gb is not known"),
        ({"link_bytes_s": 0.0, "network_bytes_s": 0.0, "host_link_bytes_s": 0.0}, "How 8 test-80gb are joined is not known"),
    ],
)
def test_devices_of_which_too_little_is_known_are_refused(unknown: dict[str, object], words: str) -> None:
    device = replace(GB80, **unknown)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=words):
        search(ask(devices=(device,)))
    beside = search(ask(devices=(device, GB80)))
    assert {plan.job.device.link_bytes_s for plan in beside.best} == {GB80.link_bytes_s}
    assert any(words in why for _, _, why in beside.refused)


def test_what_is_too_big_is_timed_all_the_same() -> None:
    found = search(ask(counts=(16,), devices=(replace(GB80, memory_bytes=4e9),), pinned={"tp": 4, "pp": 2}))
    assert found.best == ()
    assert found.leanest
    assert all(plan.headroom_bytes < 0.1 * plan.memory_bytes for plan in found.leanest)
    same = search(ask(counts=(16,), pinned=found.leanest[0].layout)).best[0]
    assert found.leanest[0].step_s == pytest.approx(same.step_s)
    assert search(ask()).leanest == ()
