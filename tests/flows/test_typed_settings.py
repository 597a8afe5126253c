"""Settings that a user typed and an engine refuses are a mistake of the input, not an answer about the model."""

import pytest

from trimtab.core.deployment import Settings
from trimtab.core.errors import InputError
from trimtab.flows.parts.opening import candidate_name, check_settings, open_model, recipe_named, with_draft
from trimtab.testing.tiny_models import write_tiny_gguf


@pytest.mark.parametrize(
    ("typed", "word"), [({"threads": 0}, "threads"), ({"kv_type": "q9"}, "q9"), ({"cpu_affinity": "99999"}, "core 99999")]
)
def test_refused_settings_are_named(tmp_path, typed, word):
    opened = open_model(str(write_tiny_gguf(tmp_path / "tiny.gguf")), cache_dir=tmp_path / "cache", offline=True)
    check_settings(opened, "llamacpp", Settings(slots=2), Settings(threads=1))
    with pytest.raises(InputError, match=word):
        check_settings(opened, "llamacpp", Settings(slots=2), Settings.parse(typed))


def test_a_draft_is_opened_and_must_speak_the_same_tokens(tmp_path):
    def opened(name, **more):
        return open_model(str(write_tiny_gguf(tmp_path / name, **more)), cache_dir=tmp_path / "cache", offline=True)

    model, small, other = opened("tiny.gguf"), opened("small.gguf", n_layers=1), opened("gemma.gguf", architecture="gemma3")
    typed = Settings(draft=small.snapshot.source)
    paired = with_draft(model, typed.draft, cache_dir=tmp_path / "cache", offline=True)
    assert paired.draft.digest == small.snapshot.digest
    check_settings(paired, "llamacpp", Settings(slots=2), typed)
    assert with_draft(model, None, cache_dir=tmp_path / "cache", offline=True) is model
    with pytest.raises(InputError, match=r"gemma\.gguf cannot draft for .*tiny\.gguf"):
        with_draft(model, other.snapshot.source, cache_dir=tmp_path / "cache", offline=True)
    with pytest.raises(InputError, match="absent"):
        with_draft(model, str(tmp_path / "absent.gguf"), cache_dir=tmp_path / "cache", offline=True)
    assert candidate_name("llamacpp", recipe_named("", "llamacpp"), typed) == "llamacpp as-shipped draft=small.gguf"


@pytest.mark.parametrize("text", ["", "a", "3-1", "0-", "-1", "0,,1", "1.5"])
def test_cores_that_are_no_cores(text):
    with pytest.raises(InputError, match="cpu_affinity takes cores"):
        Settings.parse({"cpu_affinity": text})
