"""Text that is tokenised once: by one of several processes, again after a kill, and never half."""

import errno
import json
import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from trimtab.core.errors import InputError, MissingError
from trimtab.core.training import TrainData
from trimtab.train.data import cache, prepare
from trimtab.train.data.stream import Stream, open_stream

TEXTS = [{"text": f"Document {n} says {n * n} things."} for n in range(40)]
Opened = Callable[..., Stream]
Write = Callable[..., str]
fork = multiprocessing.get_context("fork")


class Counting:
    """A tokenizer that notes each document in a file, and stops for ever at one."""

    end_id, vocab_size, digest = 256, 300, "c" * 64

    def __init__(self, log: Path, *, stop_at: int = -1) -> None:
        self.log, self.stop_at = log, stop_at

    def encode(self, text: str) -> list[int]:
        with self.log.open("a") as file:
            file.write("x")
        while self.log.stat().st_size == self.stop_at:
            time.sleep(0.01)
        time.sleep(0.002)
        return list(text.encode())

    def encode_chat(self, messages: Any) -> Any:
        raise NotImplementedError


def prepared(path: Path) -> list[Path]:
    return sorted(path.glob("prepared/*")) if path.exists() else []


def prepare_there(file: str, where: Path, log: Path, stop_at: int) -> None:
    told = TrainData(files=(file,))
    stream = open_stream(told, seq_tokens=16, seed=0, tokenizer=Counting(log, stop_at=stop_at), cache_dir=where)
    (log.with_name(f"digest-{os.getpid()}")).write_text(stream.digest)
    stream.close()


def test_of_several_processes_one_works(write_lines: Write, tmp_path: Path) -> None:
    file, log = write_lines(TEXTS), tmp_path / "log"
    running = [fork.Process(target=prepare_there, args=(file, tmp_path / "cache", log, -1)) for _ in range(3)]
    for process in running:
        process.start()
    for process in running:
        process.join(60)
    assert [process.exitcode for process in running] == [0, 0, 0]
    assert log.stat().st_size == len(TEXTS)
    assert len({path.read_text() for path in tmp_path.glob("digest-*")}) == 1
    assert [path.name for path in (tmp_path / "cache" / "prepared").iterdir() if path.name.startswith(".")] == []


def test_what_a_kill_left_half_done_is_done_again(write_lines: Write, tmp_path: Path) -> None:
    file, log, where = write_lines(TEXTS), tmp_path / "log", tmp_path / "cache"
    process = fork.Process(target=prepare_there, args=(file, where, log, 30))
    process.start()
    until = time.monotonic() + 60
    while (not log.exists() or log.stat().st_size < 30) and time.monotonic() < until:
        time.sleep(0.01)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join(60)
    assert [path for path in prepared(where) if not path.name.startswith(".")] == []
    assert [path for path in prepared(where) if ".part-" in path.name] != []
    prepare_there(file, where, log, -1)
    assert log.stat().st_size == 30 + len(TEXTS)
    (made,) = prepared(where)
    assert (made / "manifest.json").is_file()
    assert [path for path in made.parent.iterdir() if path.name.startswith(".")] == []


def test_the_same_text_and_rules_are_found_again(opened: Opened, write_lines: Write, tmp_path: Path) -> None:
    file = write_lines(TEXTS)
    opened(file)
    opened(file, seq_tokens=32, layout="padded", shuffle=False, seed=9)  # none of which is in the shards
    moved = tmp_path / "moved.jsonl"
    Path(file).rename(moved)
    opened(str(moved))
    assert len(prepared(tmp_path / "cache")) == 1
    moved.write_text(json.dumps({"text": "Other text, of another length."}) + "\n")
    opened(str(moved))
    assert len(prepared(tmp_path / "cache")) == 2
    opened(str(moved), by=Counting(tmp_path / "log"))
    assert len(prepared(tmp_path / "cache")) == 3


def test_a_full_disk_leaves_nothing_half(opened: Opened, write_lines: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(prepare, "write_atomic", full)
        with pytest.raises(MissingError, match=r"^No space left to write .*shard-00000\.parquet\. Fix: free some"):
            opened(write_lines(TEXTS))
    assert prepared(tmp_path / "cache") == []
    assert opened(write_lines(TEXTS)).n_documents == len(TEXTS)


def test_text_that_changes_meanwhile_is_told(opened: Opened, write_lines: Write, tmp_path: Path) -> None:
    file = write_lines(TEXTS)

    class Changing(Counting):
        def encode(self, text: str) -> list[int]:
            with open(file, "a") as more:
                more.write('{"text": "And more."}\n' if self.log.stat().st_size < 3 else "")
            return super().encode(text)

    (tmp_path / "log").touch()
    with pytest.raises(InputError, match="changed while it was tokenised"):
        opened(file, by=Changing(tmp_path / "log"))
    assert prepared(tmp_path / "cache") == []


@pytest.mark.usefixtures("small_shards")
def test_prepared_folders_are_data_too(opened: Opened, write_lines: Write, tmp_path: Path) -> None:
    file = write_lines(TEXTS)
    whole = opened(file)
    (folder,) = prepared(tmp_path / "cache")
    again = opened(str(folder), cache=tmp_path / "elsewhere")
    assert again.digest == whole.digest
    assert next(iter(again.steps(first_step=0, rank=0, world=1, micro_batch_seqs=2, grad_accum=1)))[0].input_ids.any()
    assert opened(str(folder), file).n_sequences == 2 * whole.n_sequences
    with pytest.raises(InputError, match="another tokenizer than the model's"):
        opened(str(folder), by=Counting(tmp_path / "log"))
    with pytest.raises(InputError, match="holds plain text; set chat = false"):
        opened(str(folder), chat=True)
    with pytest.raises(InputError, match="made with weight = ''"):
        opened(str(folder), weight="w")


@pytest.mark.usefixtures("small_shards")
@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (lambda shard: shard.write_bytes(shard.read_bytes()[:-20]), "is damaged (its digest is not the manifest's)"),
        (lambda shard: shard.write_bytes(shard.read_bytes().replace(b"PAR1", b"PAR2")), "is damaged"),
        (lambda shard: shard.unlink(), "which the manifest beside it names; copy the folder again"),
        (lambda shard: (shard.parent / "manifest.json").write_text("{}"), "is no manifest of prepared data"),
        (lambda shard: (shard.parent / "manifest.json").write_text('{"schema": "trimtab.shards/9"}'), "says 'trimtab.shards/9'"),
        (lambda shard: (shard.parent / "manifest.json").write_text('{"schema": "trimtab.shards/1"}'), "is no manifest of prepared data"),
        (lambda shard: (shard.parent / "lengths.npy").write_bytes(b"x"), "lengths.npy is damaged"),
        (lambda shard: (shard.parent / "lengths.npy").unlink(), "There is no "),
    ],
)
def test_a_broken_shard_is_told(opened: Opened, write_lines: Write, tmp_path: Path, harm: Callable[[Path], Any], said: str) -> None:
    opened(write_lines(TEXTS))
    (folder,) = prepared(tmp_path / "cache")
    harm(folder / "shard-00001.parquet")

    def an_epoch() -> None:
        stream = opened(str(folder), cache=tmp_path / "elsewhere", layout="padded")
        next(iter(stream.steps(first_step=0, rank=0, world=1, micro_batch_seqs=stream.n_sequences, grad_accum=1)))

    with pytest.raises(InputError) as raised:
        an_epoch()
    assert said in str(raised.value)
    assert "\n" not in str(raised.value)
    assert not list((tmp_path / "elsewhere").glob("shards/.*.lock"))


@pytest.mark.usefixtures("small_shards")
def test_a_damaged_local_form_is_made_again(opened: Opened, write_lines: Write, tmp_path: Path) -> None:
    def first(stream: Stream) -> bytes:
        return next(iter(stream.steps(first_step=0, rank=0, world=1, micro_batch_seqs=8, grad_accum=1)))[0].input_ids.tobytes()

    whole = opened(write_lines(TEXTS))
    expected = first(whole)
    whole.close()
    made = sorted((tmp_path / "cache" / "shards").glob("*.arrays"))
    assert len(made) > 2
    made[0].write_bytes(made[0].read_bytes()[:300])
    flipped = bytearray(made[1].read_bytes())
    flipped[300] ^= 1
    made[1].write_bytes(flipped)
    made[2].write_bytes(b"")
    assert first(opened(write_lines(TEXTS))) == expected


def test_least_recently_used_goes_first_and_nothing_in_use(tmp_path: Path) -> None:
    for number, name in enumerate(["old", "held", "newer", "newest"]):
        path = tmp_path / "shards" / f"{name}.arrays"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"x" * 100)
        os.utime(path, (number, number))
    folder = tmp_path / "prepared" / "key"
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_bytes(b"y" * 100)
    os.utime(folder / "manifest.json", (1, 1))
    in_use = cache.use(folder)
    assert in_use is not None
    os.utime(folder / cache.IN_USE, (1, 1))
    with cache.held(tmp_path / "shards" / "held.arrays"):
        cache.clear(tmp_path, 500)
        assert len(list(tmp_path.glob("*/*"))) == 5
        cache.clear(tmp_path, 400)
        assert {path.stem for path in tmp_path.glob("*/*")} == {"held", "newer", "newest", "key"}
        cache.clear(tmp_path, 300)
        assert {path.stem for path in tmp_path.glob("*/*")} == {"held", "newest", "key"}
        cache.clear(tmp_path, 0)
        assert {path.stem for path in tmp_path.glob("*/*")} == {"held", "key"}
    os.close(in_use)
    cache.clear(tmp_path, 0)
    assert list(tmp_path.glob("*/*")) == []


@pytest.mark.usefixtures("small_shards")
def test_the_cache_stays_within_its_limit_and_a_run_goes_on(opened: Opened, write_lines: Write, tmp_path: Path) -> None:
    """Even with a limit of nothing: what is in use stays, and what is needed again is made again."""
    file = write_lines([{"text": f"{again}{row['text']}"} for again in range(12) for row in TEXTS])
    whole, small = opened(file), opened(file, cache_bytes=0, cache=tmp_path / "small")
    for stream in (whole, small):
        stream.steps(first_step=0, rank=0, world=1, micro_batch_seqs=1, grad_accum=1)
    layout = {"first_step": 0, "rank": 0, "world": 1, "micro_batch_seqs": 6, "grad_accum": 1}
    for _, one, two in zip(range(whole.n_sequences // 5), whole.steps(**layout), small.steps(**layout), strict=False):
        assert (one[0].input_ids == two[0].input_ids).all()
    assert len(list(tmp_path.glob("cache/shards/*.arrays"))) > 35
    assert len(list(tmp_path.glob("small/shards/*.arrays"))) <= 33


@pytest.mark.usefixtures("small_shards")
def test_what_a_run_reads_stays_when_the_cache_is_pruned(
    opened: Opened, write_lines: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from trimtab.flows.cache import prune_cache, show_cache
    from trimtab.record.home import cache_dir

    monkeypatch.setenv("TRIMTAB_CACHE", str(tmp_path / "all"))
    stream = opened(write_lines(TEXTS), cache=cache_dir() / "train", prefetch_steps=0)
    steps = stream.steps(first_step=0, rank=0, world=1, micro_batch_seqs=stream.n_sequences, grad_accum=1)
    first = next(steps)[0].input_ids
    (row,) = [row for row in show_cache()["kinds"] if row["kind"] == "shards of training data"]
    assert row["entries"] == 1 + len(list((cache_dir() / "train" / "shards").iterdir()))
    pruned = prune_cache(max_bytes=0, older_than_s=None, dry_run=False)
    assert len(pruned.held) == row["entries"]
    assert pruned.bytes_left >= row["bytes"]
    assert sorted(next(steps)[0].input_ids.tolist()) == sorted(first.tolist())
    stream.close()
    assert prune_cache(max_bytes=0, older_than_s=None, dry_run=False).bytes_left == 0
