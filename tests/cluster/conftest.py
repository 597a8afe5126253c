"""A tiny model, items for several shards, and what tests of places compare: the levels, bit for bit, and the gates."""

import json

import pytest

WORDS = ("the", "small", "boat", "turned", "slowly", "into", "wind", "and", "old", "sailor", "watched", "water", "near", "shore")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    from trimtab.testing.tiny_models import write_tiny_gguf

    root = tmp_path_factory.mktemp("cluster")
    write_tiny_gguf(root / "model.gguf", architecture="qwen2", seed=1, weight_type="F16")
    rows = [{"id": f"t{n}", "text": " ".join(WORDS[(n * 5 + k * (1 + n % 3)) % len(WORDS)] for k in range(40))} for n in range(240)]
    (root / "mine.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRIMTAB_HOME", str(root / "state"))
        patch.setenv("OMP_NUM_THREADS", "1")
        yield root
