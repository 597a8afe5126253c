"""Who may ask for what: keys in either header, and refusals that OpenAI's clients understand."""

from pathlib import Path

import pytest

from trimtab.record.identities import Keyring, add_key, revoke_key
from trimtab.serve.access import Access, secret_of
from trimtab.serve.base import Refusal


@pytest.mark.parametrize(
    ("headers", "secret"),
    [
        ({}, ""),
        ({"authorization": "Bearer tt-x"}, "tt-x"),
        ({"authorization": "bearer  tt-x "}, "tt-x"),
        ({"authorization": "Basic dXNlcg=="}, ""),
        ({"authorization": "Bearer"}, ""),
        ({"authorization": "Bearer "}, ""),
        ({"authorization": "tt-x"}, ""),
        ({"api-key": "tt-x"}, "tt-x"),
        ({"x-api-key": "tt-x"}, "tt-x"),
        ({"authorization": "Bearer tt-x", "api-key": "tt-y"}, "tt-x"),
        ({"authorization": "Basic dXNlcg==", "api-key": "tt-y"}, "tt-y"),
    ],
)
def test_where_a_secret_stands(headers: dict[str, str], secret: str) -> None:
    assert secret_of(headers) == secret


def test_who_gets_in(tmp_path: Path) -> None:
    key, secret = add_key("web", home=tmp_path)
    access = Access(Keyring(tmp_path))
    good = {"authorization": f"Bearer {secret}"}
    assert access.check(good, need_key=True) == access.check(good, need_key=False) == key
    for headers, code in (({}, "missing_api_key"), ({"authorization": "Bearer sk-none"}, "invalid_api_key")):
        assert access.check(headers, need_key=False) is None
        with pytest.raises(Refusal) as caught:
            access.check(headers, need_key=True)
        assert (caught.value.status, caught.value.code, caught.value.kind) == (401, code, "invalid_request_error")
        assert caught.value.retry_after_s is None
        assert "sk-none" not in str(caught.value)
    revoke_key("web", home=tmp_path)
    with pytest.raises(Refusal, match="revoked"):
        Access(Keyring(tmp_path)).check(good, need_key=True)
    with pytest.raises(Refusal, match="not valid"):
        Access(None).check(good, need_key=True)


def test_what_a_key_is_for(tmp_path: Path) -> None:
    key, _ = add_key("web", models=["chat"], verbs=["chat", "embedding"], home=tmp_path)
    access = Access(Keyring(tmp_path))
    assert access.may_use(key, "chat")
    assert not access.may_use(key, "other")
    assert access.may_use(None, "other")
    access.check_verb(key, "embedding")
    access.check_verb(None, "completion")
    with pytest.raises(Refusal, match="completion") as caught:
        access.check_verb(key, "completion")
    assert (caught.value.status, caught.value.retry_after_s) == (403, None)
