"""An engine for trimtab in a package of its own. Its model is a table of which byte follows which, in a GGUF file.

    python -m byte_bigrams TEXT MODEL.gguf      counts the pairs of bytes of a text and writes the model

Tokens are the 256 bytes and END. The contract is told in trimtab.engines.base; the methods here stand in its order.
"""

import argparse
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
from gguf import GGUFReader, GGUFWriter

from trimtab.core.deployment import EngineBuild, Settings
from trimtab.core.errors import EngineRefused
from trimtab.core.model import ModelHeader, Snapshot
from trimtab.engines.base import Done, Engine, EngineInfo, GenerateRequest, Purpose, ScoreRequest, ScoreResult, TokenEvent

ARCHITECTURE = "bytebigrams"
TENSOR = "bigram.weight"
END, VOCAB_SIZE = 256, 257
CONTEXT_TOKENS = 4096
TEMPLATE = "{% for message in messages %}{{ message['content'] }}\n{% endfor %}"

Floats = npt.NDArray[np.float64]


class ByteBigrams(Engine):
    """The whole contract on a table of logits [VOCAB_SIZE, VOCAB_SIZE], row = the byte before."""

    name = "bytebigrams"
    contract_version = 1  # what this was written for: a plain number, not the constant of the trimtab that happens to be installed
    numeric_settings: ClassVar[frozenset[str]] = frozenset()
    speed_settings: ClassVar[frozenset[str]] = frozenset({"slots", "context_tokens"})
    formats: ClassVar[frozenset[str]] = frozenset({"gguf"})

    @classmethod
    def build(cls) -> EngineBuild:
        return EngineBuild(engine=cls.name, version="0.1.0")

    @classmethod
    def refuses(cls, snapshot: Snapshot, header: ModelHeader | None, settings: Settings) -> str:
        unknown = set(settings.given()) - cls.numeric_settings - cls.speed_settings
        if unknown:
            return f"it has no setting {', '.join(sorted(unknown))}"
        if snapshot.format != "gguf":
            return f"it reads GGUF files, not {snapshot.format}"
        if header is not None and header.architecture != ARCHITECTURE:
            return f"it runs {ARCHITECTURE} models, not {header.architecture}"
        return ""

    def __init__(self, snapshot: Snapshot, settings: Settings) -> None:
        why = self.refuses(snapshot, None, settings)
        if why:
            raise EngineRefused(f"{self.name} cannot open {snapshot.source}: {why}.")
        self.snapshot = snapshot
        self.slots = settings.slots or 8
        self.context_tokens = settings.context_tokens or CONTEXT_TOKENS
        self.logits: Floats | None = None
        self.running: dict[int, _Answer] = {}
        self.cancelled: list[int] = []

    def load(self, purpose: Purpose) -> None:
        if self.logits is None:
            self.logits = read_model(self.snapshot.path)

    def info(self) -> EngineInfo:
        return EngineInfo(
            build=self.build(),
            vocab_size=VOCAB_SIZE,
            context_tokens=self.context_tokens,
            bos_id=None,
            end_ids=(END,),
            settings={"slots": self.slots, "context_tokens": self.context_tokens},
            chat_template=TEMPLATE,
        )

    def tokenize(self, text: str, *, parse_special: bool) -> list[int]:
        return list(text.encode())

    def detokenize(self, ids: Sequence[int]) -> str:
        return bytes(token for token in ids if token != END).decode(errors="replace")

    def render(self, messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]] = ()) -> str:
        return "".join(f"{message['content']}\n" for message in messages)

    def score(self, requests: Sequence[ScoreRequest]) -> list[ScoreResult]:
        return [self._score(request) for request in requests]

    def _score(self, request: ScoreRequest) -> ScoreResult:
        bias = np.zeros(VOCAB_SIZE)
        for ids in request.continuations:
            self._refuse_unless_fits(request.prefix_ids, ids, len(ids))
        for token, value in request.logit_bias:
            bias[token] = value
        tables = [log_softmax(self._rows((request.prefix_ids[-1], *ids[:-1])) + bias) for ids in request.continuations]
        places = list(zip(tables, request.continuations, strict=True))
        return ScoreResult(
            logprobs=tuple(tuple(float(row[token]) for row, token in zip(table, ids, strict=True)) for table, ids in places),
            greedy=tuple(tuple(bool(row.argmax() == token) for row, token in zip(table, ids, strict=True)) for table, ids in places),
            watched=tuple(
                tuple(tuple(float(row[token]) for token in wanted) for row, wanted in zip(table, watch, strict=True))
                for table, watch in zip(tables, request.watch, strict=False)
            ),
            top=tuple(tuple(_top(row, request.top_k) for row in table) for table in tables) if request.top_k else (),
        )

    def submit(self, request: GenerateRequest) -> None:
        self._refuse_unless_fits(request.prompt_ids, (), request.max_tokens)
        self.running[request.request_id] = _Answer(request)

    def step(self) -> list[TokenEvent]:
        events = [_event(request_id, done="cancelled") for request_id in self.cancelled]
        self.cancelled.clear()
        batch = list(self.running.items())[: self.slots]
        if not batch:
            return events
        rows = log_softmax(self._rows([answer.last for _, answer in batch]))
        for (request_id, answer), row in zip(batch, rows, strict=True):
            token = answer.choose(row)
            done = answer.append(token)
            events.append(_event(request_id, token, float(row[token]), done))
            if done:
                del self.running[request_id]
        return events

    def cancel(self, request_id: int) -> None:
        if self.running.pop(request_id, None) is not None:
            self.cancelled.append(request_id)

    @property
    def n_running(self) -> int:
        return len(self.running) + len(self.cancelled)

    def close(self) -> None:
        self.running.clear()
        self.cancelled.clear()
        self.logits = None

    def _rows(self, previous: Sequence[int]) -> Floats:
        if self.logits is None:
            raise EngineRefused(f"{self.name} was asked to compute before `load`.")
        return self.logits[list(previous)]

    def _refuse_unless_fits(self, prompt_ids: Sequence[int], given_ids: Sequence[int], n_tokens: int) -> None:
        if not prompt_ids or n_tokens < 1:
            raise EngineRefused(f"{self.name} needs at least one token of prompt and one after it.")
        if any(not 0 <= token < VOCAB_SIZE for token in (*prompt_ids, *given_ids)):
            raise EngineRefused(f"{self.name} knows the tokens 0 to {VOCAB_SIZE - 1} only.")
        if len(prompt_ids) + n_tokens > self.context_tokens:
            raise EngineRefused(f"{len(prompt_ids) + n_tokens} tokens are more than the context of {self.context_tokens}.")


class _Answer:
    """One running request."""

    def __init__(self, request: GenerateRequest) -> None:
        self.request = request
        self.last = request.prompt_ids[-1]
        self.n_tokens = 0
        self.random = np.random.default_rng(request.seed)

    def choose(self, row: Floats) -> int:
        """The next token from its log-probabilities: the likeliest, or one drawn at the request's temperature within its top_p."""
        if self.request.temperature == 0:
            return int(row.argmax())
        heated = np.exp(log_softmax(row / self.request.temperature))
        best = np.argsort(-heated, kind="stable")
        before = np.cumsum(heated[best]) - heated[best]
        kept = best[before <= self.request.top_p]
        return int(self.random.choice(kept, p=heated[kept] / heated[kept].sum()))

    def append(self, token: int) -> Done:
        """Take the token; why the answer ends with it, empty if it goes on."""
        self.last, self.n_tokens = token, self.n_tokens + 1
        if not self.request.ignore_end and (token == END or token in self.request.stop_ids):
            return "stop"
        return "length" if self.n_tokens >= self.request.max_tokens else ""


def _event(request_id: int, token: int | None = None, logprob: float | None = None, done: Done = "") -> TokenEvent:
    return TokenEvent(request_id=request_id, token_id=token, logprob=logprob, time_ns=time.monotonic_ns(), done=done)


def _top(row: Floats, count: int) -> tuple[tuple[int, float], ...]:
    return tuple((int(token), float(row[token])) for token in np.argsort(-row, kind="stable")[:count])


def log_softmax(logits: Floats) -> Floats:
    """Over the last axis, in float64."""
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True)))


def read_model(path: Path) -> Floats:
    """The table of a model file. Raises EngineRefused for a file that holds something else."""
    found = {tensor.name: tensor.data for tensor in GGUFReader(path).tensors}
    if TENSOR not in found or found[TENSOR].shape != (VOCAB_SIZE, VOCAB_SIZE):
        raise EngineRefused(f"{path} is not a model of {ARCHITECTURE}: it has no tensor {TENSOR} of {VOCAB_SIZE} x {VOCAB_SIZE}.")
    return np.array(found[TENSOR], dtype=np.float64)


def train(text: bytes) -> Floats:
    """log P(next | previous) from counts; a byte that was seldom seen leans on how common bytes are in the text."""
    ids = np.array([*text, END])
    common = (np.bincount(ids, minlength=VOCAB_SIZE) + 1.0) / (len(ids) + VOCAB_SIZE)
    counts = np.zeros((VOCAB_SIZE, VOCAB_SIZE))
    np.add.at(counts, (ids[:-1], ids[1:]), 1.0)
    return np.asarray(np.log((counts + common) / (counts.sum(axis=1, keepdims=True) + 1.0)))


def write_model(path: Path, logits: Floats) -> Path:
    """A GGUF file that trimtab opens: the architecture's name, sizes for the model card, the template, one tensor."""
    writer = GGUFWriter(path, ARCHITECTURE)
    writer.add_name("byte bigrams")
    writer.add_context_length(CONTEXT_TOKENS)
    writer.add_vocab_size(VOCAB_SIZE)
    writer.add_chat_template(TEMPLATE)
    writer.add_tensor(TENSOR, logits.astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def main() -> None:
    parser = argparse.ArgumentParser(prog="byte_bigrams", description="Count which byte follows which in a text and write the model.")
    parser.add_argument("text", type=Path)
    parser.add_argument("model", type=Path)
    given = parser.parse_args()
    write_model(given.model, train(given.text.read_bytes()))


if __name__ == "__main__":
    main()
