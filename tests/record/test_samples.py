"""Answers that wait to be scored: few, private, and gone after an hour."""

import stat

from trimtab.record.samples import KEEP_S, Sample, keep_sample, remove_sample, waiting_samples


def sample(number, at_s=1000.0):
    return Sample(
        request=f"req-{number}",
        at_s=at_s + number,
        model="chat",
        stable="chat@1",
        candidate="chat@2",
        cluster=f"c{number}",
        kind="chat",
        answer="Tuesday \ud800",
        messages=({"role": "user", "content": "What day comes after Monday?"},),
    )


def test_what_is_kept_is_read_in_order_by_its_owner_only_and_removed_once(tmp_path):
    folder = tmp_path / "sample"
    assert waiting_samples(folder, 1000.0) == []
    assert all(keep_sample(folder, sample(number)) for number in (3, 1, 2))
    found = waiting_samples(folder, 1010.0)
    assert [one.request for one in found] == ["req-1", "req-2", "req-3"]
    assert list(found[0].messages) == [{"role": "user", "content": "What day comes after Monday?"}]
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o600}
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    remove_sample(folder, found[0])
    remove_sample(folder, found[0])
    assert [one.request for one in waiting_samples(folder, 1010.0)] == ["req-2", "req-3"]


def test_no_more_wait_than_may_and_none_for_longer_than_an_hour(tmp_path):
    assert [keep_sample(tmp_path, sample(number), most=2) for number in (1, 2, 3)] == [True, True, False]
    late_s = 1002.5 + KEEP_S
    assert keep_sample(tmp_path, sample(0, at_s=late_s), most=2), "the old ones made room"
    assert waiting_samples(tmp_path, late_s + KEEP_S + 1) == []
    assert list(tmp_path.iterdir()) == []


def test_what_is_no_sample_is_removed_and_half_written_ones_are_left_alone_until_they_are_old(tmp_path):
    keep_sample(tmp_path, sample(1))
    (tmp_path / "000000001002000-x.json").write_text("{")
    (tmp_path / "000000001003000-y.json").write_text('{"request": "r"}')
    (tmp_path / "000000001004000-z.part").write_text("{")
    assert [one.request for one in waiting_samples(tmp_path, 1010.0)] == ["req-1"]
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".json", ".part"]
    assert waiting_samples(tmp_path, 1010.0 + KEEP_S) == []
    assert not list(tmp_path.iterdir())
