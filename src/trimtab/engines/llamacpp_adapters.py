"""LoRA adapters in llama.cpp: loaded beside a model, used by a whole context or not at all."""

import ctypes
from collections.abc import Sequence
from typing import Any

import llama_cpp.llama_cpp as native

from trimtab.core.errors import EngineRefused
from trimtab.core.files import sha256_file
from trimtab.core.model import Adapter
from trimtab.engines.llamacpp_native import forget_log, last_words


def open_adapters(model: int, adapters: Sequence[Adapter]) -> dict[str, Any]:
    """Load adapters for a model: handles by name, which go with the model.

    Must come before the contexts that are to use them: a context has room for the nodes that its model's adapters add to the graph.
    Raises EngineRefused for a file that is not what it was, is no adapter, or is one for another model.
    """
    return {one.name: _opened(model, one) for one in adapters}


def _opened(model: int, adapter: Adapter) -> Any:
    try:
        is_same = sha256_file(adapter.path) == adapter.sha256
    except OSError as error:
        raise EngineRefused(f"The adapter {adapter.name!r} cannot be read: {adapter.path} ({error.strerror or error}).") from error
    if not is_same:
        raise EngineRefused(f"The adapter {adapter.name!r} is not what it was when the site was read: {adapter.path} was changed since.")
    forget_log()
    handle = native.llama_adapter_lora_init(model, str(adapter.path).encode())
    if not handle:
        why = last_words() or "it gave no reason"
        raise EngineRefused(f"llama.cpp cannot take the adapter {adapter.name!r} ({adapter.path}): {why}.")
    if native.llama_adapter_get_alora_n_invocation_tokens(handle):
        raise EngineRefused(f"The adapter {adapter.name!r} ({adapter.path}) acts from certain tokens on only, which is not supported.")
    return handle


def use_adapter(context: int, handle: Any) -> None:
    """Have a context compute with one adapter at its full strength, or with None. Raises EngineRefused."""
    if handle is None:
        code = native.llama_set_adapters_lora(context, None, 0, None)
    else:
        handles = (native.llama_adapter_lora_p_ctypes * 1)(handle)
        code = native.llama_set_adapters_lora(context, handles, 1, (ctypes.c_float * 1)(1.0))
    if code != 0:
        raise EngineRefused(f"llama.cpp could not change to another adapter (code {code}): {last_words() or 'no reason given'}.")
