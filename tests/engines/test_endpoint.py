"""The client of OpenAI-shaped servers against a fake one with every failure it must live with."""

import socket
import time

import pytest

from trimtab.core.endpoint import Endpoint
from trimtab.core.errors import InputError, MissingError, TrimtabError
from trimtab.engines import endpoint as endpoint_module
from trimtab.engines.endpoint import EndpointClient
from trimtab.engines.endpoint_http import ExchangeFailed, Unreachable
from trimtab.engines.endpoint_probe import listed_models, probe
from trimtab.engines.endpoint_scores import NEVER, Scored, beyond, is_spelled, prompt_tokens, sum_after, total
from trimtab.testing.fake_server import LIKELY, ODD_BODIES, UNLIKELY, FakeServer, followers, logprobs_of, prompt_logprobs_of, walk

KEY = "sk-very-secret"
HELLO = [{"role": "user", "content": "Hello"}]


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(endpoint_module, "FIRST_WAIT_S", 0.01)


def client_of(server, *, key="", **options):
    limit_s = options.pop("request_limit_s", 20.0)
    return EndpointClient(Endpoint(url=server.url, model=options.pop("model", "m"), **options), key, request_limit_s=limit_s)


def test_a_streamed_answer_is_whole_and_every_piece_has_its_time():
    with FakeServer(gap_s=0.01, fingerprint="f1") as server:
        answer = client_of(server).ask_now(HELLO, 10)
    assert answer.text == server.text_for({"messages": HELLO, "max_tokens": 10, "temperature": 0.0})
    assert (answer.n_tokens, answer.is_counted, answer.finish, answer.error, answer.n_tries) == (10, True, "stop", "", 1)
    assert (answer.model, answer.fingerprint) == ("m", "f1")
    assert len(answer.piece_ns) == 10
    assert answer.submit_ns < answer.piece_ns[0]
    assert answer.piece_ns[-1] - answer.piece_ns[0] >= 9 * 0.01e9


@pytest.mark.parametrize(
    "fault", ["429", "500", "503", "not-json", "cut-stream", "cut-body", "no-finish", "error-event", "closed", *ODD_BODIES]
)
def test_what_may_pass_is_tried_again(fault):
    with FakeServer(faults=[fault, fault]) as server:
        answer = client_of(server).ask_now(HELLO, 8)
    assert answer.error == ""
    assert answer.text == server.text_for({"messages": HELLO, "max_tokens": 8, "temperature": 0.0})
    assert answer.n_tries == 3


def test_what_is_not_an_answer_is_one_sentence_in_either_form():
    for streams in (True, False):
        with FakeServer(faults=[*ODD_BODIES] * 2, streams=streams) as server:
            client = client_of(server)
            for _ in ODD_BODIES:
                body = client.chat_body(HELLO, 4, temperature=0.0, seed=0, stream=streams)
                with pytest.raises(ExchangeFailed, match=r"sent .* where an? \w+") as caught:
                    client.chat(body, limit_s=5.0)
                assert caught.value.is_retryable


@pytest.mark.parametrize(("fault", "says"), [("400", "planted 400"), ("html", "web page")])
def test_what_cannot_pass_is_not_tried_again(fault, says):
    with FakeServer(faults=[fault]) as server:
        answer = client_of(server).ask_now(HELLO, 8)
        assert len(server.requests) == 1
    assert says in answer.error
    assert answer.text == ""


def test_a_server_that_never_recovers_costs_a_bounded_number_of_tries():
    with FakeServer(faults=["500"] * 1000) as server:
        client = client_of(server)
        answers = [client.ask_now(HELLO, 8) for _ in range(12)]
        assert len(server.requests) == endpoint_module.TRIES * endpoint_module.SERVER_GONE
    assert all(answer.error for answer in answers)
    assert "in a row" in answers[-1].error


def test_retry_after_is_kept_to_and_holds_back_other_requests_too():
    with FakeServer(faults=["429"], retry_after="0.4") as server:
        client = client_of(server)
        began = time.monotonic()
        client.ask_now(HELLO, 4)
        assert time.monotonic() - began >= 0.4
        client._not_before = time.monotonic() + 0.3
        began = time.monotonic()
        client.ask_now(HELLO, 4)
        assert time.monotonic() - began >= 0.29


def test_a_wait_longer_than_the_time_left_is_not_begun():
    with FakeServer(faults=["429"], retry_after="3600") as server:
        began = time.monotonic()
        answer = client_of(server, request_limit_s=2.0).ask_now(HELLO, 4)
    assert "limits the rate" in answer.error
    assert time.monotonic() - began < 60.0


def test_a_server_that_says_nothing_is_given_up():
    with FakeServer(delay_s=1.5) as server:
        answer = client_of(server, request_limit_s=0.3).ask_now(HELLO, 4)
    assert "did not answer within" in answer.error


def test_bytes_that_drip_do_not_stretch_the_limit():
    with FakeServer(gap_s=0.3) as server:
        began = time.monotonic()
        answer = client_of(server, request_limit_s=1.0).ask_now(HELLO, 24)
    assert "did not answer within" in answer.error
    assert time.monotonic() - began < 5.0


def test_nothing_listens_there():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/v1"
        with pytest.raises(Unreachable, match="refuses connections; is the server running") as caught:
            probe(EndpointClient(Endpoint(url=url), ""))
    assert isinstance(caught.value, MissingError)


def test_https_to_a_server_that_speaks_http():
    with FakeServer() as server, pytest.raises(TrimtabError, match=r"does not speak TLS|closed the connection"):
        listed_models(EndpointClient(Endpoint(url=server.url.replace("http:", "https:")), "", request_limit_s=2.0))


def test_no_such_host():
    with pytest.raises(Unreachable, match=r"no host .nosuch\.invalid."):
        listed_models(EndpointClient(Endpoint(url="http://nosuch.invalid/v1"), ""))


def test_a_wrong_key_is_named_by_its_variable_and_never_shown():
    with FakeServer(key="right") as server, pytest.raises(InputError, match="401") as caught:
        probe(client_of(server, key=KEY, key_env="MY_KEY"))
    assert "MY_KEY" in str(caught.value)
    assert KEY not in str(caught.value)
    with FakeServer(key="right") as server:
        answer = client_of(server, key=KEY).ask_now(HELLO, 4)
        assert "401" in answer.error
        assert KEY not in answer.error
        assert probe(client_of(server, key="right")).models == ("m",)


def test_an_address_without_v1_is_put_right():
    with FakeServer() as server:
        bare = server.url.removesuffix("/v1")
        with pytest.raises(InputError, match=f"write openai:{bare}/v1#m"):
            probe(EndpointClient(Endpoint(url=bare, model="m"), ""))


@pytest.mark.parametrize(("models", "wanted", "says"), [(("a", "b"), "", "name one after the address"), (("a", "b"), "c", "it has a, b")])
def test_a_model_that_is_not_there_is_answered_with_those_that_are(models, wanted, says):
    with FakeServer(models=models) as server, pytest.raises(InputError, match=says):
        probe(client_of(server, model=wanted))


def test_the_only_model_need_not_be_named():
    with FakeServer(models=("solo",)) as server:
        client = client_of(server, model="")
        probe(client)
    assert client.model == "solo"


def test_everything_that_was_probed_is_stated_with_its_reason():
    with FakeServer(scores=True, fingerprint="f") as server:
        found = probe(client_of(server))
    assert {one.name: one.can for one in found.capabilities} == {
        "list of models": True,
        "chat": True,
        "streaming": True,
        "count of tokens": True,
        "fingerprint": True,
        "log-probabilities of answers": False,
        "prompt log-probabilities": True,
        "prompt log-probabilities of chats": False,
        "seed": True,
        "tokenize": False,
    }
    assert all(one.reason for one in found.capabilities)


def test_a_poor_server_is_seen_as_one():
    with FakeServer(streams=False, counts=False) as server:
        found = probe(client_of(server))
    assert not any(found.can(name) for name in ("streaming", "count of tokens", "fingerprint", "prompt log-probabilities"))


def test_log_probabilities_at_the_wrong_places_are_no_capability(monkeypatch):
    """llama-cpp-python 0.3.36 reports each token's number one place late; whoever trusts it compares noise."""
    from trimtab.testing import fake_server

    sound = fake_server.logprobs_of

    def late(text):
        tokens, values = sound(text)
        return tokens, [None, *([UNLIKELY] * (len(values) - 1))]

    monkeypatch.setattr(fake_server, "logprobs_of", late)
    with FakeServer(scores=True) as server:
        found = probe(client_of(server))
    assert not found.can("prompt log-probabilities")
    assert "shuffled" in next(one.reason for one in found.capabilities if one.name == "prompt log-probabilities")


@pytest.mark.parametrize("word", ["stream_options", "temperature", "seed", "max_tokens"])
def test_a_request_is_said_in_the_servers_own_words(word):
    with FakeServer(refuses_words=[word]) as server:
        client = client_of(server)
        probe(client)
        answer = client.ask_now(HELLO, 5)
    assert answer.error == ""
    assert word not in server.requests[-1][1]
    assert server.requests[-1][1].get("max_completion_tokens") == (5 if word == "max_tokens" else None)


def test_given_text_is_scored_to_the_letter():
    words = walk("x", 6)
    with FakeServer(scores=True) as server:
        score = client_of(server).score_now("Head:\n\n", " ".join(words))
    assert score.nats == pytest.approx(UNLIKELY + 5 * LIKELY)  # after the head the first word is not expected
    assert score.n_bytes == len(" ".join(words))
    assert words[1] in followers(words[0])


def reason_of(found, name="prompt log-probabilities"):
    return next(one.reason for one in found.capabilities if one.name == name)


@pytest.mark.parametrize(
    ("options", "way"),
    [
        ({"prompt_scores": True}, "prompt_logprobs"),
        ({"prompt_scores": True, "scores": True}, "prompt_logprobs"),
        ({"scores": True}, "echo"),  # the field is not known and ignored
        ({"scores": True, "refuses_words": ["prompt_logprobs"]}, "echo"),
        ({"prompt_scores": True, "refuses_words": ["echo"]}, "prompt_logprobs"),
    ],
)
def test_given_text_is_scored_the_way_that_the_server_knows(options, way):
    words = walk("x", 6)
    with FakeServer(**options) as server:
        client = client_of(server)
        found = probe(client)
        n_before = len(server.requests)
        scores = [client.score_now("Head:\n\n", " ".join(words)) for _ in range(2)]
        asked = [body for path, body in server.requests[n_before:] if path.endswith("/completions")]
    assert found.can("prompt log-probabilities")
    assert reason_of(found).startswith(f"by {way}: ")
    assert client.scores_by == way
    assert [score.nats for score in scores] == pytest.approx([UNLIKELY + 5 * LIKELY] * 2)
    assert len(asked) == (3 if way == "prompt_logprobs" else 2), "a head is asked for once"
    assert all((body.get("prompt_logprobs") == 0) == (way == "prompt_logprobs") for body in asked)


def test_a_server_without_either_way_says_why_of_both():
    with FakeServer() as server:
        assert reason_of(probe(client_of(server))) == f"{server.url}/completions answers 404: Not Found"
    with FakeServer(refuses_words=["prompt_logprobs"]) as server:
        why = reason_of(probe(client_of(server)))
    assert "by prompt_logprobs: " in why
    assert "; by echo: " in why


def test_an_answer_is_scored_in_the_chat_template_where_the_server_can():
    words, question = walk("x", 6), [{"role": "user", "content": "Tell me."}]
    with FakeServer(prompt_scores=True) as server:
        client = client_of(server)
        found = probe(client)
        score = client.score_now(question, " ".join(words))
        path, body = server.requests[-1]
    assert found.can("prompt log-probabilities of chats")
    assert client.scores_chats
    assert score.nats == pytest.approx(UNLIKELY + 5 * LIKELY)
    assert path.endswith("/chat/completions")
    assert body["messages"] == [*question, {"role": "assistant", "content": " ".join(words)}]
    assert (body["add_generation_prompt"], body["continue_final_message"], body["prompt_logprobs"]) == (False, True, 0)


def test_a_template_that_adds_to_an_answer_is_not_used():
    with FakeServer(prompt_scores=True, template_adds="<think></think>") as server:
        client = client_of(server)
        found = probe(client)
    assert found.can("prompt log-probabilities")
    assert not found.can("prompt log-probabilities of chats")
    assert not client.scores_chats
    assert "adds to an answer" in reason_of(found, "prompt log-probabilities of chats")


def test_prompt_logprobs_are_read_as_vllm_gives_them():
    tokens, values = logprobs_of("Head: " + " ".join([*walk("x", 3), *walk("y", 3)]))
    rows = prompt_logprobs_of(tokens, values, 0)
    found = prompt_tokens({"choices": [{"prompt_logprobs": rows}]}, "server", is_chat=False)
    assert found == prompt_tokens({"prompt_logprobs": rows, "usage": {"prompt_tokens": len(tokens)}}, "server", is_chat=True)
    assert [one and one.nats for one in found] == values
    assert is_spelled(found[1:], "".join(tokens[1:]))
    assert not is_spelled(found[1:], "".join(tokens[2:]))
    with pytest.raises(ExchangeFailed, match=f"{len(tokens)} tokens for a prompt of 99"):
        prompt_tokens({"prompt_logprobs": rows, "usage": {"prompt_tokens": 99}}, "server", is_chat=True)
    with pytest.raises(ExchangeFailed, match="gives no prompt_logprobs"):  # with others beside it nothing tells which is the prompt's own
        prompt_tokens({"prompt_logprobs": prompt_logprobs_of(tokens, values, 2)}, "server", is_chat=True)


@pytest.mark.parametrize(
    "choice",
    [
        None,
        {},
        {"prompt_logprobs": None},
        {"prompt_logprobs": []},
        {"prompt_logprobs": [None, {}]},
        {"prompt_logprobs": [None, {"7": {"logprob": 0.5, "rank": 1}}]},
        {"prompt_logprobs": [None, {"7": {"logprob": None, "rank": 1}}]},
        {"prompt_logprobs": [None, {"7": {"rank": 1}}]},
        {"prompt_logprobs": [None, -1.0]},
    ],
)
def test_prompt_logprobs_in_another_form_are_none(choice):
    with pytest.raises(ExchangeFailed, match="gives no prompt_logprobs"):
        prompt_tokens({"choices": [choice]}, "server", is_chat=False)
    with pytest.raises(ExchangeFailed, match="gives no prompt_logprobs"):
        prompt_tokens(choice, "server", is_chat=True)


def test_the_text_is_what_follows_its_head():
    head = [None, Scored("1", -1.0, "a"), Scored("2", -2.0, " b")]
    text, seam = [Scored("4", -4.0, "c"), Scored("5", -8.0, "d")], Scored("3", -16.0, "bc")
    assert total(beyond(head, [*head, *text]), "server") == -12.0
    assert total(beyond(head, [*head[:2], seam, text[1]]), "server") == -24.0, "a token across the seam belongs to the text"
    assert total(beyond(head, [*head, head[2]]), "server") == -2.0
    for rest in ([], [Scored("4", NEVER, "c")], [None]):
        with pytest.raises(ExchangeFailed, match="leaves out"):
            total(beyond(head, [*head, *rest]), "server")


@pytest.mark.parametrize(
    ("tokens", "values", "nats"),
    [
        (["<s>", "a", "b ", "c", " d", "!"], [None, -1.0, -2.0, -4.0, -8.0, -16.0], -12.0),  # a marker before, a token generated after
        (["a", "b ", "c", " d"], [None, -1.0, -2.0, -4.0], -6.0),
        (["a", "b c", " d"], [None, -1.0, -2.0], -3.0),  # a token across the seam belongs to the text
    ],
)
def test_tokens_are_followed_through_the_text(tokens, values, nats):
    assert sum_after(tokens, values, "ab ", "c d", "server") == nats


def test_letters_cut_into_bytes_count_once_each():
    tokens, values = ["q ", "na", "\ufffd", "\ufffd", "ve", " caf", "é", "."], [None, -1.0, -2.0, -4.0, -8.0, -16.0, -32.0, -64.0]
    assert sum_after(tokens, values, "q ", "naïve café.", "server") == -127.0


def test_an_echo_of_something_else_is_refused():
    with pytest.raises(ExchangeFailed, match="not the one that was sent"):
        sum_after(["a", "b", "c"], [None, -1.0, -1.0], "ab", "cdefghijklmnop", "server")


def test_who_answers_is_counted():
    with FakeServer(fingerprint="f1", changes_after=2, changed=("m", "f2")) as server:
        client = client_of(server)
        for _ in range(5):
            client.ask_now(HELLO, 4)
    assert client.seen == {("m", "f1"): 2, ("m", "f2"): 3}


def test_closing_ends_what_is_under_way():
    import threading

    with FakeServer(delay_s=5.0) as server:
        client = client_of(server)
        found = []
        thread = threading.Thread(target=lambda: found.append(client.ask_now(HELLO, 4)))
        thread.start()
        time.sleep(0.3)
        began = time.monotonic()
        client.close()
        thread.join(timeout=4)
        assert time.monotonic() - began < 4.0
    assert found[0].error
