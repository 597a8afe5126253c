"""A tokenizer of bytes, and text files."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from trimtab.core.errors import InputError
from trimtab.core.training import TrainData
from trimtab.train.data import prepare
from trimtab.train.data.stream import Stream, open_stream


class ByteTokenizer:
    """A byte is a token, 256 is the end; a conversation is `role:content;` and the assistant says content and `;`."""

    end_id = 256
    vocab_size = 300
    digest = "b" * 64

    def encode(self, text: str) -> list[int]:
        return list(text.encode())

    def encode_chat(self, messages: Sequence[Mapping[str, Any]]) -> tuple[list[int], list[bool]]:
        ids: list[int] = []
        learnt: list[bool] = []
        for message in messages:
            if message["role"] not in ("user", "assistant"):
                raise InputError(f"The template knows no role {message['role']!r}.")
            head, said = self.encode(f"{message['role']}:"), self.encode(f"{message['content']};")
            ids += head + said
            learnt += [False] * len(head) + [message["role"] == "assistant"] * len(said)
        return ids, learnt


@pytest.fixture
def tokenizer() -> ByteTokenizer:
    return ByteTokenizer()


@pytest.fixture
def write_lines(tmp_path: Path) -> Callable[..., str]:
    """Writes a .jsonl of rows and returns its path."""

    def write(rows: Sequence[Mapping[str, Any]], name: str = "text.jsonl") -> str:
        path = tmp_path / name
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return str(path)

    return write


@pytest.fixture
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shards of 400 tokens: a few kilobytes of text make more than one window of them."""
    monkeypatch.setattr(prepare, "SHARD_TOKENS", 400)


@pytest.fixture
def opened(tmp_path: Path, tokenizer: ByteTokenizer) -> Iterator[Callable[..., Stream]]:
    """Opens streams of files with any of [data], and closes them."""
    streams = []

    def open_(*files: str, seq_tokens: int = 16, seed: int = 3, cache: Path | None = None, by: Any = tokenizer, **data: Any) -> Stream:
        told = TrainData(files=files, **data)
        streams.append(open_stream(told, seq_tokens=seq_tokens, seed=seed, tokenizer=by, cache_dir=cache or tmp_path / "cache"))
        return streams[-1]

    yield open_
    for stream in streams:
        stream.close()
