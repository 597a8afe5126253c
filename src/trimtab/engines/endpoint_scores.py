"""Log-probabilities of a given text, as servers tell them of a prompt: pure functions on their replies.

Two ways. `echo`: a completion repeats its prompt with `logprobs` (OpenAI's old API), and the tokens are followed by their spelling.
`prompt_logprobs`: vLLM's own field tells the ids of the prompt's tokens, and the text is what follows those that its head has by itself.
Its form: a list of null or {id: {logprob, rank, decoded_token}}, in each choice of a completion and beside the choices of a chat
(vLLM, `entrypoints/openai/completion/protocol.py` and `chat_completion/protocol.py`).
"""

import itertools
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

from trimtab.engines.endpoint_http import ExchangeFailed

MOST_CUT_CHARACTERS = 8
"""So many letters in a row may be cut into tokens that spell none of them."""
NEVER = -9999.0
"""What vLLM writes for a log-probability of minus infinity, which JSON cannot hold."""
Way = Literal["prompt_logprobs", "echo"]


class Scored(NamedTuple):
    """A token of a prompt. token: its id; text: its spelling, of which spaces may be lost."""

    token: str
    nats: float
    text: str


def echoed_tokens(reply: Any, url: str) -> tuple[list[str], list[float | None]]:
    """Tokens of the echoed prompt and their log-probabilities, None for the first; at the end there may be one more.

    Raises ExchangeFailed if they are not there.
    """
    try:
        found = reply["choices"][0]["logprobs"]
        n_prompt = (reply.get("usage") or {}).get("prompt_tokens")
        tokens, logprobs = list(found["tokens"])[:n_prompt], list(found["token_logprobs"])[:n_prompt]
    except (LookupError, TypeError):
        raise ExchangeFailed(f"{url}/completions gives no log-probabilities of the prompt.", status=400) from None
    fitting = all(isinstance(token, str) for token in tokens) and all(
        value is None or (isinstance(value, int | float) and value <= 1e-3) for value in logprobs
    )
    if len(tokens) != len(logprobs) or not fitting:
        raise ExchangeFailed(f"{url}/completions gives log-probabilities that make no sense.", status=400)
    return tokens, logprobs


def sum_after(tokens: list[str], logprobs: list[float | None], head: str, text: str, url: str) -> float:
    """Nats of the tokens that lie in `text`, where `tokens` spell a marker or none, head + text, and what was generated after it.

    The text is followed token by token, because what servers say of offsets differs. A letter that is cut into several tokens has no
    spelling in any of them: they count where the last spelled token ended. Raises ExchangeFailed if the tokens spell another text.
    """
    wanted = head + text
    total, place = 0.0, 0
    for index, (token, value) in enumerate(zip(tokens, logprobs, strict=True)):
        begins = _found(wanted, token, place)
        if begins is None and index == 0:
            continue  # a marker such as BOS
        if place >= len(wanted):
            break
        ends = place if begins is None else begins + len(token)
        if ends > len(head) or (ends == place and place >= len(head)):
            if value is None:
                raise ExchangeFailed(f"{url}/completions leaves out the log-probability of a token.", status=400)
            total += value
        place = ends
    if len(wanted) - place > MOST_CUT_CHARACTERS:
        raise ExchangeFailed(f"{url}/completions echoes a text that is not the one that was sent.", status=400)
    return total


def _found(wanted: str, token: str, place: int) -> int | None:
    """Where a token is spelled: at `place`, or after letters beyond ASCII, which may have been cut; None = nowhere there."""
    if not token:
        return None
    for skipped in range(MOST_CUT_CHARACTERS + 1):
        if wanted.startswith(token, place + skipped):
            return place + skipped
        if wanted[place + skipped : place + skipped + 1].isascii():
            return None
    return None


def prompt_tokens(reply: Any, url: str, *, is_chat: bool) -> list[Scored | None]:
    """Tokens of a prompt from `prompt_logprobs`, its own only; None for the first, which follows nothing.

    Raises ExchangeFailed if they are not there, or not all (a prefix cache may swallow some: vllm-project/vllm#6508).
    """
    try:
        rows = (reply if is_chat else reply["choices"][0])["prompt_logprobs"]
        if not rows:
            raise LookupError
        found = [None if row is None else _prompts_own(row) for row in rows]
        n_prompt = (reply.get("usage") or {}).get("prompt_tokens", len(found))
    except (LookupError, TypeError, ValueError, AttributeError):
        raise ExchangeFailed(f"{url} gives no prompt_logprobs.", status=400) from None
    if n_prompt != len(found):
        raise ExchangeFailed(f"{url} gives prompt_logprobs of {len(found)} tokens for a prompt of {n_prompt}.", status=400)
    return found


def _prompts_own(row: dict[str, Any]) -> Scored:
    """The prompt's token in one place; where 0 others were asked for it is alone. Raises ValueError if it is not, or for no number."""
    ((token, found),) = row.items()
    value = found["logprob"]
    if not isinstance(value, int | float) or value > 1e-3:
        raise ValueError
    return Scored(token=str(token), nats=float(value), text=str(found.get("decoded_token") or ""))


def beyond(head: Sequence[Scored | None], whole: Sequence[Scored | None]) -> list[Scored | None]:
    """The tokens of `whole` from the first that differs from those of `head`: one across the seam counts as the text's.

    The first token of either is not told and taken for the same.
    """
    ids = ([one and one.token for one in tokens[1:]] for tokens in (head, whole))
    cut = 1 + sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], zip(*ids, strict=False)))
    return list(whole[cut:])


def total(tokens: Sequence[Scored | None], url: str) -> float:
    """Nats of the tokens together. Raises ExchangeFailed for none, or one without a number or without a chance."""
    if not tokens or any(one is None or one.nats <= NEVER for one in tokens):
        raise ExchangeFailed(f"{url} leaves out the log-probability of a token, or gives it no chance at all.", status=400)
    return sum(one.nats for one in tokens if one is not None)


def is_spelled(tokens: Sequence[Scored | None], text: str) -> bool:
    """Whether the tokens spell the text and nothing else, whitespace apart."""
    return "".join("".join(one.text.split()) for one in tokens if one is not None) == "".join(text.split())
