"""What a server can do, found by trying: a handful of small requests, each result stated with what was seen."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from trimtab.core.endpoint import Capability, Messages
from trimtab.core.errors import InputError, TrimtabError
from trimtab.engines.endpoint import EndpointClient
from trimtab.engines.endpoint_http import ExchangeFailed, Http, Unreachable
from trimtab.engines.endpoint_scores import Way, is_spelled, total

PROBE_LIMIT_S = 60.0
PROBE_TOKENS = 16
MOST_NAMED = 12
SENTENCE = "Monday, Tuesday, Wednesday, Thursday, Friday, Saturday, Sunday."
SHUFFLED = "Sunday Friday, Wednesday Monday, Saturday, Thursday. Tuesday,"
WAYS: tuple[Way, ...] = ("prompt_logprobs", "echo")
"""Ids before spellings: a token of a model that keeps spaces apart (SentencePiece) may be spelled without its space."""
QUESTION: Messages = ({"role": "user", "content": "Say hello in one short sentence."},)
DAYS: Messages = ({"role": "user", "content": "Name the days of the week, beginning with Monday."},)


@dataclass(frozen=True, kw_only=True)
class Probe:
    """A server at the beginning of a run.

    models: the ids it lists; () = it has no list
    model, fingerprint: what its first answer said of itself
    """

    models: tuple[str, ...]
    model: str
    fingerprint: str
    capabilities: tuple[Capability, ...]

    def can(self, name: str) -> bool:
        """Whether the server was seen to do this."""
        return any(one.name == name and one.can for one in self.capabilities)


def probe(client: EndpointClient) -> Probe:
    """Try everything that a comparison could use, and settle how this server wants to be asked (`client.model`, `limit_name`, `without`).

    Raises InputError where the address, the model or the key is wrong, Unreachable where nothing answers, ExchangeFailed where it answers
    no chat request.
    """
    models, listed = _models(client)
    client.model = _chosen(client, models, listed.reason)
    answer, streamed = _chat(client)
    found = [
        listed,
        Capability(name="chat", can=True, reason=f"answered {len(answer['text'])} characters"),
        streamed,
        _usage(answer),
        _fingerprint(answer),
        _tried("log-probabilities of answers", lambda: _answer_logprobs(client)),
        _tried("prompt log-probabilities", lambda: _prompt_logprobs(client)),
        _tried("prompt log-probabilities of chats", lambda: _chat_prompt_logprobs(client)),
        _tried("seed", lambda: _seed(client)),
        _tried("tokenize", lambda: _tokenize(client)),
    ]
    return Probe(models=models, model=answer["model"], fingerprint=answer["fingerprint"], capabilities=tuple(found))


def listed_models(client: EndpointClient) -> tuple[str, ...]:
    """The ids that the server lists. Raises Unreachable, ExchangeFailed."""
    reply, _ = client.persist(lambda left_s: client.http.json("GET", "/models", limit_s=min(left_s, PROBE_LIMIT_S)))
    rows = reply.get("data") if isinstance(reply, Mapping) else None
    if not isinstance(rows, list):
        raise ExchangeFailed(f"{client.http.url}/models gives no list of models.")
    return tuple(str(row["id"]) for row in rows if isinstance(row, Mapping) and "id" in row)


def _models(client: EndpointClient) -> tuple[tuple[str, ...], Capability]:
    try:
        models = listed_models(client)
    except ExchangeFailed as error:
        if error.status in (401, 403):
            raise InputError(f"{error} Here that is {client.endpoint.key_env}{_key_hint(client)}.") from None
        if error.status == 404:
            _refuse_address(client)
        return (), Capability(name="list of models", can=False, reason=str(error))
    return models, Capability(name="list of models", can=True, reason=f"{len(models)} models")


def _key_hint(client: EndpointClient) -> str:
    return "" if client.http.key else ", which is not set"


def _refuse_address(client: EndpointClient) -> None:
    """A 404 on the list of models: if the list is found with /v1 added, that was what is missing."""
    url = client.endpoint.url
    if urlsplit(url).path.rstrip("/").endswith("/v1"):
        return
    there = Http(f"{url}/v1", client.http.key)
    try:
        there.json("GET", "/models", limit_s=PROBE_LIMIT_S)
    except TrimtabError:
        return
    finally:
        there.close()
    raise InputError(f"{url} is not the base of the API, {url}/v1 is; write openai:{url}/v1#{client.endpoint.model or 'model'}.")


def _chosen(client: EndpointClient, models: tuple[str, ...], reason: str) -> str:
    """The model to ask for. Raises InputError for one that the server does not list, and where it lists several and none was named."""
    wanted = client.endpoint.model
    named = ", ".join(models[:MOST_NAMED]) + (f" and {len(models) - MOST_NAMED} more" if len(models) > MOST_NAMED else "")
    if wanted and (wanted in models or not models):
        return wanted
    if wanted:
        raise InputError(f"{client.http.url} has no model {wanted!r}; it has {named}.")
    if len(models) == 1:
        return models[0]
    if models:
        raise InputError(f"{client.http.url} has several models; name one after the address with #: {named}.")
    raise InputError(
        f"{client.http.url} lists no models ({reason.rstrip('.')}); name one after the address: openai:{client.http.url}#model."
    )


def _chat(client: EndpointClient) -> tuple[dict[str, Any], Capability]:
    """A first answer, and whether it streams; what this server refuses to be told is left out from now on."""
    refused: dict[str, str] = {}
    for _ in range(6):
        body = client.chat_body(QUESTION, PROBE_TOKENS, temperature=0.0, seed=1)
        try:
            answer, _ = client.persist(lambda left_s, body=body: client.chat(body, limit_s=min(left_s, PROBE_LIMIT_S)))  # type: ignore[misc]
            break
        except ExchangeFailed as error:
            _adapt(client, error, refused)
    else:
        raise ExchangeFailed(f"{client.http.url} refuses every form of a chat request.", status=400)
    client.seen[(answer.model, answer.fingerprint)] = 1
    is_streamed = len(answer.piece_ns) > 1
    if "stream" in refused:
        streamed = Capability(name="streaming", can=False, reason=refused["stream"])
    else:
        pieces = f"{len(answer.piece_ns)} piece{'' if len(answer.piece_ns) == 1 else 's'}"
        streamed = Capability(name="streaming", can=is_streamed, reason=f"the first answer came in {pieces}")
    return {"text": answer.text, "model": answer.model, "fingerprint": answer.fingerprint, "is_counted": answer.is_counted}, streamed


def _adapt(client: EndpointClient, error: ExchangeFailed, refused: dict[str, str]) -> None:
    """Leave out, or call by its other name, what the server refused. Raises InputError or the error itself where nothing helps."""
    said = error.detail.lower()
    if error.status in (401, 403):
        raise InputError(f"{error} Here that is {client.endpoint.key_env}{_key_hint(client)}.") from None
    if error.status == 404:
        raise InputError(f"{error} Is {client.model!r} a model of this server, and {client.http.url} the base of its API?") from None
    if error.status not in (400, 422):
        raise error
    if "max_completion_tokens" in said and client.limit_name != "max_completion_tokens":
        client.limit_name = "max_completion_tokens"
        return
    for name, also in (("stream_options", ()), ("temperature", ()), ("seed", ()), ("stream", ("stream_options",))):
        if name in said and name not in client.without:
            client.without |= {name, *also}
            refused[name] = str(error)
            return
    raise error


def _tried(name: str, attempt: Callable[[], Capability]) -> Capability:
    """The outcome of one attempt; whatever the server does instead is the reason that it cannot."""
    try:
        return attempt()
    except Unreachable:
        raise
    except TrimtabError as error:
        return Capability(name=name, can=False, reason=str(error))


def _usage(answer: Mapping[str, Any]) -> Capability:
    told = bool(answer["is_counted"])
    return Capability(
        name="count of tokens",
        can=told,
        reason="it counts the tokens of an answer" if told else "no count: pieces of the stream are counted",
    )


def _fingerprint(answer: Mapping[str, Any]) -> Capability:
    found = str(answer["fingerprint"])
    return Capability(
        name="fingerprint",
        can=bool(found),
        reason=f"system_fingerprint {found}" if found else "none: a change behind one name may go unseen",
    )


def _answer_logprobs(client: EndpointClient) -> Capability:
    body = client.chat_body(QUESTION, 4, temperature=0.0, seed=1, stream=False) | {"logprobs": True}
    reply = client.http.json("POST", "/chat/completions", body, limit_s=PROBE_LIMIT_S)
    try:
        found = reply["choices"][0]["logprobs"]["content"]
        is_there = bool(found) and all(isinstance(row["logprob"], int | float) for row in found)
    except (LookupError, TypeError):
        is_there = False
    why = f"{len(found)} tokens with theirs" if is_there else "asked for, the answer has none"
    return Capability(name="log-probabilities of answers", can=is_there, reason=why)


def _prompt_logprobs(client: EndpointClient) -> Capability:
    """Log-probabilities of given text, by the first way that tells a sentence from its shuffled words; it is the client's from now on.

    Servers ignore or refuse what they do not know, so every way is tried.
    """
    name = "prompt log-probabilities"
    seen: dict[str, str] = {}
    for way in WAYS:
        client.scores_by = way
        try:
            sentence, shuffled = (client.nats_of("The days:\n\n", text) for text in (SENTENCE, SHUFFLED))
        except ExchangeFailed as error:
            seen[way] = str(error).rstrip(".")
            continue
        if sentence > shuffled:
            how = f"by {way}: {sentence:.1f} nats for a sentence, {shuffled:.1f} with its words shuffled"
            return Capability(name=name, can=True, reason=how)
        seen[way] = "what it gives does not tell a sentence from its words shuffled"
    alike = len(set(seen.values())) == 1
    return Capability(name=name, can=False, reason=seen["echo"] if alike else "; ".join(f"by {way}: {why}" for way, why in seen.items()))


def _chat_prompt_logprobs(client: EndpointClient) -> Capability:
    """The same of an answer in the chat template. Some templates add to an answer what was never generated (an empty thought)."""
    name = "prompt log-probabilities of chats"
    if client.scores_by != "prompt_logprobs":
        return Capability(name=name, can=False, reason="without prompt_logprobs the chat template is out of reach")
    sentence, shuffled = (client.tokens_of(DAYS, text) for text in (SENTENCE, SHUFFLED))
    if not is_spelled(sentence, SENTENCE):
        return Capability(name=name, can=False, reason="the chat template adds to an answer: scored as plain text")
    likely, less = total(sentence, client.http.url), total(shuffled, client.http.url)
    client.scores_chats = likely > less
    return Capability(name=name, can=client.scores_chats, reason=f"{likely:.1f} nats for a sentence, {less:.1f} with its words shuffled")


def _seed(client: EndpointClient) -> Capability:
    """Same seed, same answer; another seed, another answer."""
    if "seed" in client.without:
        return Capability(name="seed", can=False, reason="it refuses to be given one")
    answers = [client.ask_now(QUESTION, PROBE_TOKENS, temperature=1.0, seed=seed) for seed in (7, 7, 8, 9)]
    failed = next((answer.error for answer in answers if answer.error), "")
    if failed:
        return Capability(name="seed", can=False, reason=failed)
    same, other = answers[0].text == answers[1].text, len({answer.text for answer in answers[1:]}) > 1
    if same and other:
        return Capability(name="seed", can=True, reason="the same seed gave the same answer, others gave others")
    return Capability(
        name="seed",
        can=False,
        reason="two answers with one seed differ" if not same else "other seeds gave the same answer: not told apart",
    )


def _tokenize(client: EndpointClient) -> Capability:
    """An address that vLLM and llama.cpp have beside the API."""
    parts = urlsplit(client.endpoint.url)
    beside = Http(f"{parts.scheme}://{parts.netloc}{parts.path.removesuffix('/v1')}", client.http.key)
    try:
        reply = beside.json("POST", "/tokenize", {"model": client.model, "content": SENTENCE, "prompt": SENTENCE}, limit_s=PROBE_LIMIT_S)
    finally:
        beside.close()
    tokens = reply.get("tokens") if isinstance(reply, Mapping) else None
    can = isinstance(tokens, list) and bool(tokens)
    return Capability(name="tokenize", can=can, reason=f"{len(tokens or ())} tokens for a sentence" if can else "it gives no tokens")
