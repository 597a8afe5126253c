"""`openai:URL#model`: what is understood, and what is said of the rest."""

import pytest

from trimtab.core.endpoint import Endpoint
from trimtab.core.errors import InputError
from trimtab.sources.endpoint import is_endpoint, key_of, parse_endpoint
from trimtab.sources.open import open_source


@pytest.mark.parametrize(
    ("spec", "endpoint"),
    [
        ("openai:http://host:8000/v1#old", Endpoint(url="http://host:8000/v1", model="old")),
        ("openai:http://host:8000/v1/", Endpoint(url="http://host:8000/v1")),
        ("openai:https://x.org/v1#org/model:free", Endpoint(url="https://x.org/v1", model="org/model:free")),
        (
            "openai:https://x.org/openai/deployments/d?api-version=2#gpt?key_env=MY_KEY&concurrency=2",
            Endpoint(url="https://x.org/openai/deployments/d?api-version=2", model="gpt", key_env="MY_KEY", concurrency=2),
        ),
    ],
)
def test_read(spec, endpoint):
    assert is_endpoint(spec)
    assert parse_endpoint(spec) == endpoint


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("openai:", "names no server"),
        ("openai:host:8000#m", "names no server"),
        ("openai:ftp://host/v1#m", "names no server"),
        ("openai:http://host:99999999/v1#m", "broken address"),
        ("openai:http://me:secret@host/v1#m", "must not hold a name or password"),
        ("openai:http://host/v1#m?threads=2", "Unknown option 'threads'"),
        ("openai:http://host/v1#m?concurrency=0", "from 1 to 64"),
        ("openai:http://host/v1#m?key_env=sk-secret", "name of an environment variable"),
    ],
)
def test_refused_in_one_sentence(spec, says):
    with pytest.raises(InputError, match=says) as caught:
        parse_endpoint(spec)
    assert "secret" not in str(caught.value)


def test_the_key_comes_from_the_environment(monkeypatch):
    endpoint = parse_endpoint("openai:http://host/v1#m?key_env=SOME_KEY")
    monkeypatch.delenv("SOME_KEY", raising=False)
    assert key_of(endpoint) == ""
    monkeypatch.setenv("SOME_KEY", " abc\n")
    assert key_of(endpoint) == "abc"
    assert "abc" not in repr(endpoint)


def test_a_server_has_no_files(tmp_path):
    with pytest.raises(InputError, match="out of reach; `trimtab compare` and `trimtab evaluate` ask it, this cannot"):
        open_source("openai:http://host/v1#m", cache_dir=tmp_path)
