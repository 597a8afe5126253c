"""vLLM: a configuration file for `vllm serve --config`, with the settings that mean the same there."""

from typing import Any

from trimtab.core.errors import InputError
from trimtab.core.release import Serving
from trimtab.package.manifests.lock import hub_name, judged
from trimtab.package.manifests.text import title, yaml_bytes

SAME = {"context_tokens": "max-model-len", "slots": "max-num-seqs", "batch_tokens": "max-num-batched-tokens"}
"""Settings whose number means the same to vLLM (docs.vllm.ai, engine arguments)."""

OPENS = ("safetensors", "gguf")


def vllm(serving: Serving) -> dict[str, bytes]:
    """vllm.yaml. Raises InputError for weights that vLLM does not open, MissingError."""
    if serving.weights_format not in OPENS:
        raise InputError(
            f"vLLM does not open {serving.weights_format} weights, which {serving.name} is served with; it opens {' and '.join(OPENS)}. "
            "Export another format, or judge a candidate of these formats."
        )
    given, dropped = arguments(serving)
    model, notes = _model(serving)
    document = {**model, "served-model-name": serving.model, "host": "127.0.0.1", "port": serving.port, **given}
    return {
        "vllm.yaml": yaml_bytes(
            [title(serving, "vLLM"), "Start: vllm serve --config vllm.yaml", *notes, *settings_notes(serving, dropped)], document
        )
    }


def arguments(serving: Serving) -> tuple[dict[str, Any], dict[str, Any]]:
    """The settings as vLLM's arguments, and those without an equal by their own names. True = a flag without a value."""
    settings = dict(judged(serving).settings)
    given: dict[str, Any] = {there: settings.pop(here) for here, there in SAME.items() if here in settings}
    if "prefix_cache" in settings:
        given["enable-prefix-caching" if settings.pop("prefix_cache") else "no-enable-prefix-caching"] = True
    return given, settings


def settings_notes(serving: Serving, dropped: dict[str, Any]) -> list[str]:
    """What is not the same as what was judged."""
    notes = [
        f"Nothing was certified for vLLM: the decision is about {serving.engine}. Before it answers anybody, hold this server against "
        "what was judged: `trimtab compare` takes openai:URL#model.",
    ]
    if dropped:
        names = ", ".join(f"{key} = {value}" for key, value in dropped.items())
        notes.append(f"Settings of {serving.engine} that have no equal in vLLM, and are left out: {names}.")
    notes.append(
        "Keys, guards, limits, the audit log and rollout are the gateway's: put `trimtab serve` before it, as a version with this "
        "server's url."
    )
    return notes


def _model(serving: Serving) -> tuple[dict[str, Any], list[str]]:
    """Where vLLM finds the weights, and what must be done for that."""
    lock, hub = judged(serving), hub_name(serving.source)
    if hub is not None and lock.is_source and serving.weights_format == "safetensors":
        return {"model": hub.name, **({"revision": hub.revision} if hub.revision else {})}, []
    if serving.weights_format == "safetensors":
        return {"model": "./weights"}, [f"Put the weights into the folder `weights` beside this file: they come from {serving.source}."]
    if not lock.is_source:
        made = f"made of {serving.source} by recipe {lock.recipe}; `trimtab export --format modelpack` writes it"
        return {"model": "./weights.gguf"}, [_gguf_note(f"weights.gguf, {made}")]
    name = lock.files[0] if len(lock.files) == 1 else "weights.gguf"
    return {"model": f"./{name}"}, [_gguf_note(f"{name}, of {serving.source}")]


def _gguf_note(what: str) -> str:
    return (
        f"Put the file beside this one: {what}. vLLM takes GGUF as one file, calls that experimental, and is faster and surer with the "
        "original model's tokenizer, which the lock does not name: add `tokenizer: ORG/NAME`."
    )
