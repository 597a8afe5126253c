"""What tests of whole verbs share: a tiny model with items on which a loss can be told, and a run certified on them."""

import functools
import json
import shutil
from types import SimpleNamespace

import pytest

from trimtab.core.deployment import Settings
from trimtab.engines.base import ScoreRequest
from trimtab.flows.compare import compare
from trimtab.flows.parts import reference
from trimtab.sources.open import open_source
from trimtab.testing.tiny_models import write_tiny_gguf

WORDS = ("the", "small", "boat", "turned", "slowly", "into", "wind", "and", "old", "sailor", "watched", "water", "near", "shore")
POLICY = """
name = "own"
version = "1"
alpha = 0.05
max_attempts = 1
looks = [0.5, 1.0]
noise_multiple = 3.0
power = 0.8
[[gates]]
name = "said"
kind = "non_inferiority"
suite = "said"
weight = "tokens"
unit = "nats/token"
margin = 0.02
control = "weights-q2_k"
min_clusters = 10
reason = "test"
"""


def write_what_the_model_likes(model, path, n_texts=60, n_words=12):
    """Texts grown word by word, always with the model's own favourite: a loss can be told, because other weights like them less."""
    from trimtab.engines.llamacpp import LlamaCppEngine

    engine = LlamaCppEngine(open_source(str(model), cache_dir=path.parent), Settings(slots=16, context_tokens=256))
    engine.load("score")
    texts = [f"{WORDS[n % len(WORDS)]} {WORDS[n * 7 % 13]} {n}" for n in range(n_texts)]
    for _ in range(n_words):
        prefixes = [engine.tokenize(text, parse_special=False) for text in texts]
        words = [engine.tokenize(f" {word}", parse_special=False) for word in WORDS]
        requests = [ScoreRequest(prefix_ids=tuple(prefix), continuations=tuple(map(tuple, words))) for prefix in prefixes]
        for number, result in enumerate(engine.score(requests)):
            rates = [sum(row) / len(row) for row in result.logprobs]
            texts[number] += f" {WORDS[rates.index(max(rates))]}"
    engine.close()
    path.write_text("".join(json.dumps({"id": f"said-{n}", "text": text}) + "\n" for n, text in enumerate(texts)))


@pytest.fixture(scope="session")
def liked():
    """policy: a policy with one gate on the sub-suite `said`; write(model, path): items for it that the model likes."""
    return SimpleNamespace(policy=POLICY, write=write_what_the_model_likes)


@pytest.fixture(scope="session", autouse=True)
def rates_measured_once():
    """This machine's rates are measured once, not once in the state of each module: it takes seconds, and tests/measure proves it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reference, "measure_rates", functools.cache(reference.measure_rates))
        yield


@pytest.fixture(scope="session")
def certified_once(tmp_path_factory):
    """What `certified` gives, without its state being the one in use."""
    root = tmp_path_factory.mktemp("certified")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRIMTAB_HOME", str(root / "state"))
        write_tiny_gguf(root / "model.gguf", architecture="qwen2", seed=1)
        write_what_the_model_likes(root / "model.gguf", root / "said.jsonl")
        (root / "own.toml").write_text(POLICY)
        decision = compare(
            f"llamacpp:{root / 'model.gguf'}", f"llamacpp:{root / 'model.gguf'}?threads=1", suites=[str(root / "said.jsonl")],
            policy=str(root / "own.toml"), workload="64/16@1,2", timing=False, out=root / "run",
        )  # fmt: skip
    assert decision["verdict"] == "pass", decision["reasons"]
    (root / "alone").mkdir()
    shutil.copy(root / "run" / "deploy.toml", root / "alone" / "deploy.toml")
    return root


@pytest.fixture(scope="module")
def certified(certified_once):
    """A model, its certified run under `run`, and the lock alone under `alone`; made once for all modules, which write beside them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRIMTAB_HOME", str(certified_once / "state"))
        yield certified_once
