"""Settings that a user typed and an engine refuses are a mistake of the input, not an answer about the model."""

import pytest

from trimtab.core.deployment import Settings
from trimtab.core.errors import InputError
from trimtab.flows.parts.opening import check_settings, open_model
from trimtab.testing.tiny_models import write_tiny_gguf


@pytest.mark.parametrize(("typed", "word"), [({"threads": 0}, "threads"), ({"kv_type": "q9"}, "q9")])
def test_refused_settings_are_named(tmp_path, typed, word):
    opened = open_model(str(write_tiny_gguf(tmp_path / "tiny.gguf")), cache_dir=tmp_path / "cache", offline=True)
    check_settings(opened, "llamacpp", Settings(slots=2), Settings(threads=1))
    with pytest.raises(InputError, match=word):
        check_settings(opened, "llamacpp", Settings(slots=2), Settings.parse(typed))
