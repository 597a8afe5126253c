"""What engines have in common that hold three parts: texts, a scorer once loaded to score, a server once loaded to serve."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Protocol

from trimtab.core.errors import EngineRefused
from trimtab.engines.base import Engine, GenerateRequest, ScoreRequest, ScoreResult, TokenEvent
from trimtab.engines.tally import check


class Texts(Protocol):
    """Text to tokens and back: see the methods of Engine with these names."""

    def tokenize(self, texts: Sequence[str], *, parse_special: bool) -> list[list[int]]: ...

    def detokenize(self, ids: Sequence[int]) -> str: ...

    def render(self, messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]]) -> str: ...


class Scorer(Protocol):
    """See Engine.score; requests were checked."""

    def score(self, requests: Sequence[ScoreRequest]) -> list[ScoreResult]: ...


class Server(Protocol):
    """See Engine."""

    @property
    def n_running(self) -> int: ...

    def submit(self, request: GenerateRequest) -> None: ...

    def step(self) -> list[TokenEvent]: ...

    def cancel(self, request_id: int) -> None: ...


class WithServer(Engine):
    """An engine that a server answers for, which `load` sets and `close` lets go. title: the library's name in sentences"""

    title: ClassVar[str]
    _server: Server | None

    def submit(self, request: GenerateRequest) -> None:
        if self._server is None:
            raise EngineRefused(f"{self.title} was not loaded to serve.")
        self._server.submit(request)

    def step(self) -> list[TokenEvent]:
        return self._server.step() if self._server else []

    def cancel(self, request_id: int) -> None:
        if self._server:
            self._server.cancel(request_id)

    @property
    def n_running(self) -> int:
        return self._server.n_running if self._server else 0


class ScorerAndServer(WithServer):
    """An engine of all three parts, of which `load` sets one of the latter two."""

    _scorer: Scorer | None

    @property
    @abstractmethod
    def _texts(self) -> Texts:
        """Raises EngineRefused for files that cannot be read."""

    @property
    @abstractmethod
    def vocab_size(self) -> int:
        """Number of logits."""

    @property
    @abstractmethod
    def context_tokens(self) -> int:
        """Tokens that one sequence may hold."""

    def tokenize(self, text: str, *, parse_special: bool) -> list[int]:
        return self._texts.tokenize([text], parse_special=parse_special)[0]

    def tokenize_all(self, texts: Sequence[str], *, parse_special: bool) -> list[list[int]]:
        return self._texts.tokenize(texts, parse_special=parse_special)

    def detokenize(self, ids: Sequence[int]) -> str:
        if any(not 0 <= token < self.vocab_size for token in ids):
            raise EngineRefused(f"A token id lies outside the vocabulary of {self.vocab_size}.")
        return self._texts.detokenize(ids)

    def render(self, messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]] = ()) -> str:
        return self._texts.render(messages, tools)

    def score(self, requests: Sequence[ScoreRequest]) -> list[ScoreResult]:
        if self._scorer is None:
            raise EngineRefused(f"{self.title} was not loaded to score.")
        for request in requests:
            check(request, self.vocab_size, self.context_tokens)
        return self._scorer.score(requests)
