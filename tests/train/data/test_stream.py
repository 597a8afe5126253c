"""Streams: what is in a step, on any number of processes and from any step on."""

import contextlib
import itertools
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from trimtab.core.errors import InputError
from trimtab.train.batch import MicroBatch
from trimtab.train.data import reader
from trimtab.train.data.stream import Stream, timed

TEXTS = [f"This is document {n}. " * (1 + n * n % 9) for n in range(60)]
Opened = Callable[..., Stream]
Write = Callable[..., str]


def take(stream: Stream, n_steps: int, *, first_step: int = 0, **layout: Any) -> list[list[MicroBatch]]:
    steps = stream.steps(first_step=first_step, **{"rank": 0, "world": 1, "micro_batch_seqs": 2, "grad_accum": 2} | layout)
    taken = list(itertools.islice(steps, n_steps))
    stream.end()
    return taken


def rows(batches: list[MicroBatch]) -> list[bytes]:
    """Every sequence of some micro-batches with all that belongs to it."""
    fields = ("input_ids", "target_ids", "weights", "position_ids", "document_ids", "sequence_ids")
    return [b"".join(getattr(batch, name)[row].tobytes() for name in fields) for batch in batches for row in range(len(batch.input_ids))]


def text_of(stream: Stream, tokenizer_end: int = 256) -> list[str]:
    """The documents that an unshuffled, packed stream of one epoch holds."""
    size = stream.n_sequences
    (batches,) = take(stream, 1, micro_batch_seqs=size, grad_accum=1)
    batch = batches[0]
    ids: list[int] = []
    for row in range(size):
        held = batch.document_ids[row] >= 0
        ids += batch.input_ids[row][held].tolist()
    raw = [chr(token) if token != tokenizer_end else "\0" for token in ids]
    return "".join(raw).split("\0")


@pytest.mark.usefixtures("small_shards")
def test_all_text_is_there_once_in_the_files_order(opened: Opened, write_lines: Write) -> None:
    stream = opened(write_lines([{"text": text} for text in TEXTS]), shuffle=False, mask_documents=False)
    held = "\0".join(text_of(stream))
    whole = "\0".join(TEXTS)
    # The last token of a shard is a target only; here the shards end with a document, so with its end.
    assert held.replace("\0", "") == whole.replace("\0", "")
    assert stream.n_tokens == sum(len(text) + 1 for text in TEXTS)
    assert stream.n_documents == len(TEXTS)
    assert stream.digest == opened(write_lines([{"text": text} for text in TEXTS]), shuffle=False, mask_documents=False).digest


@pytest.mark.usefixtures("small_shards")
def test_an_epoch_of_any_layout_learns_each_token_once(opened: Opened, write_lines: Write) -> None:
    file = write_lines([{"text": text} for text in TEXTS])
    plain = np.bincount([token for text in TEXTS for token in [*text.encode()[1:], 256]], minlength=300)
    for layout in ("packed", "padded"):
        stream = opened(file, layout=layout)
        found = np.zeros(300, dtype=np.int64)
        n_slots = n_padding = 0
        seen: set[int] = set()
        for step in take(stream, stream.n_sequences, micro_batch_seqs=1, grad_accum=1):
            found += np.bincount(step[0].target_ids[step[0].weights > 0], minlength=300)
            n_slots += step[0].document_ids.size
            n_padding += int((step[0].document_ids < 0).sum())
            assert step[0].sequence_ids is not None
            seen.update(step[0].sequence_ids.tolist())
        assert (found == plain).all()
        assert seen == set(range(stream.n_sequences))
        assert stream.n_target_tokens == plain.sum()
        assert stream.padding_share == pytest.approx(n_padding / n_slots)


@pytest.mark.usefixtures("small_shards")
@given(data=st.data())
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_number_of_processes_and_any_first_step_give_the_same_order(data: st.DataObject, opened: Opened, write_lines: Write) -> None:
    draw = data.draw
    world, accum, seqs = draw(st.sampled_from([(w, a, 24 // w // a) for w in (1, 2, 3, 4, 6, 8) for a in (1, 2, 3) if 24 % (w * a) == 0]))
    first = draw(st.integers(0, 40))
    left_out = draw(st.sets(st.integers(0, 45), max_size=4))
    kind = draw(st.sampled_from([{}, {"layout": "padded"}, {"shuffle": False}, {"prefetch_steps": 0}]))
    stream = opened(write_lines([{"text": text} for text in TEXTS]), **kind)
    plain = take(stream, first + 3, micro_batch_seqs=24, grad_accum=1, leave_out=left_out)[first:]
    parts = [
        take(stream, 3, first_step=first, rank=rank, world=world, micro_batch_seqs=seqs, grad_accum=accum, leave_out=left_out)
        for rank in range(world)
    ]
    for number in range(3):
        shared = [row for micro in range(accum) for rank in range(world) for row in rows([parts[rank][number][micro]])]
        assert shared == rows(plain[number])


def test_left_out_batches_do_not_come(opened: Opened, write_lines: Write) -> None:
    stream = opened(write_lines([{"text": text} for text in TEXTS]))
    whole = [rows(step) for step in take(stream, 8)]
    assert [rows(step) for step in take(stream, 6, leave_out=[2, 5])] == [whole[n] for n in (0, 1, 3, 4, 6, 7)]


def test_seeds_order_and_content_change_the_digest(opened: Opened, write_lines: Write) -> None:
    file = write_lines([{"text": text} for text in TEXTS])
    other = write_lines([{"text": text} for text in TEXTS[1:]], "other.jsonl")
    told: list[dict[str, Any]] = [{}, {"seed": 4}, {"seq_tokens": 8}, {"layout": "padded"}, {"mask_documents": False}, {"shuffle": False}]
    digests = [opened(file, **kind).digest for kind in told] + [
        opened(other).digest,
        opened(file, other).digest,
        opened(other, file).digest,
    ]
    assert len(set(digests)) == len(digests)
    assert opened(file, prefetch_steps=7, cache_bytes=2**20).digest == digests[0]


def test_weights_and_conversations(opened: Opened, write_lines: Write) -> None:
    said = [[{"role": "user", "content": "2+2"}, {"role": "assistant", "content": "4"}, {"role": "user", "content": "ok"}]]
    said += [[{"role": "user", "content": "1+1"}, {"role": "assistant", "content": "2!"}]]
    file = write_lines([{"messages": messages, "w": weight} for messages, weight in zip(said, (0.5, 2), strict=True)])
    stream = opened(file, chat=True, weight="w", shuffle=False, layout="padded", seq_tokens=64)
    (step,) = take(stream, 1)
    learnt = [
        "".join(chr(token) for token, weight in zip(batch.target_ids[row], batch.weights[row], strict=True) if weight == expected)
        for batch, row, expected in ((step[0], 0, 0.5), (step[0], 1, 2.0))
    ]
    assert learnt == ["4;", "2!;"]
    assert stream.n_target_tokens == 5


def test_the_thread_ends_and_tells_what_stopped_it(opened: Opened, write_lines: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = opened(write_lines([{"text": text} for text in TEXTS]))
    steps = timed(stream.steps(first_step=0, rank=0, world=1, micro_batch_seqs=1, grad_accum=1))
    batches, waited_s = next(steps)
    assert len(batches) == 1
    assert 0 <= waited_s < 60
    assert "batches" in [thread.name for thread in threading.enumerate()]
    stream.close()
    stream.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith(("batches", "shards"))]
    broken = opened(write_lines([{"text": "another text, long enough for one sequence"}], "b.jsonl"))
    monkeypatch.setattr(reader.Packing, "fill", lambda *_: (_ for _ in ()).throw(InputError("Broken.")))
    with pytest.raises(InputError, match=r"^Broken\.$"):
        next(broken.steps(first_step=0, rank=0, world=1, micro_batch_seqs=1, grad_accum=1))


@pytest.mark.usefixtures("small_shards")
def test_shards_that_the_order_has_passed_are_let_go(opened: Opened, write_lines: Write, tmp_path: Path) -> None:
    stream = opened(write_lines([{"text": f"{again} {text}"} for again in range(6) for text in TEXTS]), prefetch_steps=0)
    most = 0
    for _ in itertools.islice(stream.steps(first_step=0, rank=0, world=1, micro_batch_seqs=2, grad_accum=2), stream.n_sequences // 4):
        held = set()
        for fd in os.listdir("/proc/self/fd"):
            with contextlib.suppress(OSError):
                held.add(os.readlink(f"/proc/self/fd/{fd}"))
        most = max(most, sum(name.endswith(".arrays") for name in held))
    assert len(list((tmp_path / "cache" / "shards").glob("*.arrays"))) > 40
    assert 16 <= most <= 33


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ((), "names nothing"),
        (("none.jsonl",), "There is no none.jsonl"),
        (("none*.jsonl",), "No file matches none"),
        (("{tmp}",), "is a folder without a manifest.json"),
        (("{tmp}/empty.jsonl",), "There is no text in {tmp}/empty.jsonl"),
        (("{tmp}/notes.md",), "notes.md is none of .jsonl, .parquet, .txt"),
        (("{tmp}/broken.jsonl",), "broken.jsonl, line 2 is no JSON ("),
        (("{tmp}/list.jsonl",), "list.jsonl, line 1 is no JSON object"),
        (("{tmp}/field.jsonl",), "field.jsonl, line 1 has no `text` (it has body)"),
        (("{tmp}/messages.jsonl",), "set chat = true"),
        (("{tmp}/latin.txt",), "latin.txt is not UTF-8 (byte 1)"),
        (("{tmp}/cut.parquet",), "cut.parquet is no whole Parquet file"),
        (("{tmp}/short.jsonl",), "The data have 3 tokens, less than one sequence of 16"),
        (("{tmp}/short.jsonl", "{tmp}/s*.jsonl"), "short.jsonl is named twice"),
        (("nowhere://x/a.jsonl",), "nowhere://x is no address that data can be read from"),
    ],
)
def test_what_cannot_be_used_is_told_in_a_sentence(opened: Opened, tmp_path: Path, files: tuple[str, ...], said: str) -> None:
    texts: dict[str, bytes] = {
        "empty.jsonl": b"\n",
        "notes.md": b"# Notes",
        "broken.jsonl": b'{"text": "fine"}\n{"text": "cut',
        "list.jsonl": b"[1]\n",
        "field.jsonl": b'{"body": "x"}\n',
        "messages.jsonl": b'{"messages": []}\n',
        "latin.txt": b"a\xe9b",
        "cut.parquet": b"PAR1 and no more",
        "short.jsonl": b'{"text": "ab"}\n',
    }
    for name, raw in texts.items():
        (tmp_path / name).write_bytes(raw)
    with pytest.raises(InputError) as raised:
        opened(*(file.format(tmp=tmp_path) for file in files))
    message = str(raised.value)
    assert said.format(tmp=tmp_path) in message
    assert message.endswith(".")
    assert "\n" not in message


@pytest.mark.parametrize(
    ("row", "kind", "said"),
    [
        ({"text": "x"}, {"weight": "w"}, "line 1 has no weight in `w` (found None)"),
        ({"text": "x", "w": -1}, {"weight": "w"}, "line 1 has no weight in `w` (found -1)"),
        ({"text": "x", "w": True}, {"weight": "w"}, "found True"),
        ({"text": "x"}, {"chat": True}, "line 1 has no list of `messages`"),
        ({"messages": [{"role": "pope", "content": "x"}]}, {"chat": True}, "line 1: The template knows no role 'pope'"),
    ],
)
def test_rows_that_cannot_be_used(opened: Opened, write_lines: Write, row: dict[str, Any], kind: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError) as raised:
        opened(write_lines([row]), **kind)
    assert said in str(raised.value)


def test_texts_of_all_kinds_hold_the_same(opened: Opened, write_lines: Write, tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    texts = ["First text.", "Zweiter Text: größer."]
    pq.write_table(pa.table({"text": texts, "other": [1, 2]}), tmp_path / "t.parquet")
    (tmp_path / "1.txt").write_text(texts[0])
    (tmp_path / "2.txt").write_text(texts[1])
    (tmp_path / "3.txt").write_text(" \n")
    found = [
        opened(file).digest
        for file in (write_lines([{"text": t} for t in texts]), f"{tmp_path}/t.parquet", f"{tmp_path}/?.txt", f"file://{tmp_path}/[12].txt")
    ]
    assert len(set(found)) == 1
