"""Ollama: a Modelfile for GGUF weights (docs/modelfile.mdx of ollama/ollama)."""

from trimtab.core.errors import InputError
from trimtab.core.release import Serving
from trimtab.package.manifests.lock import judged
from trimtab.package.manifests.text import comment, title

SAME = {"context_tokens": "num_ctx", "threads": "num_thread", "batch_tokens": "num_batch", "device_layers": "num_gpu"}
"""Settings whose number means the same to Ollama (`Options` of its api/types.go)."""


def modelfile(serving: Serving) -> dict[str, bytes]:
    """Modelfile. Raises InputError for weights that are no GGUF."""
    if serving.weights_format != "gguf":
        raise InputError(
            f"A Modelfile is for GGUF weights; {serving.name} is served with {serving.weights_format}. Export another format, or judge a "
            "GGUF candidate."
        )
    lock = judged(serving)
    settings = dict(lock.settings)
    parameters = {there: settings.pop(here) for here, there in SAME.items() if here in settings}
    if settings.get("load_mode") in ("mmap", "read"):
        parameters["use_mmap"] = "true" if settings.pop("load_mode") == "mmap" else "false"
    server = {}
    if "slots" in settings:
        server["OLLAMA_NUM_PARALLEL"] = str(settings.pop("slots"))
    if "flash_attention" in settings:
        server["OLLAMA_FLASH_ATTENTION"] = "1" if settings.pop("flash_attention") else "0"
    if settings.get("kv_type") in ("f16", "q8_0", "q4_0"):
        server["OLLAMA_KV_CACHE_TYPE"] = settings.pop("kv_type")
    if lock.is_source and len(lock.files) == 1:
        name, where = lock.files[0], f"of {serving.source}"
    else:
        name, where = "weights.gguf", f"made of {serving.source} by recipe {lock.recipe}; `trimtab export --format modelpack` writes it"
    notes = [
        title(serving, "Ollama Modelfile"),
        f"Put the weights beside this file: {name}, {where}. Then: ollama create {serving.name} -f Modelfile",
        f"Nothing was certified for Ollama: the decision is about {serving.engine}, and Ollama's build of llama.cpp is another one. "
        "Before it answers anybody, hold it against what was judged: `trimtab compare` takes openai:URL#model.",
        "TEMPLATE is left out on purpose. The chat template that was judged is Jinja, in the GGUF; Ollama's are Go, and one put here "
        "would replace what Ollama makes of the file's own. `trimtab compare` finds out whether the two differ.",
    ]
    if server:
        notes.append("Set for the server, since a Modelfile cannot: " + " ".join(f"{key}={value}" for key, value in server.items()))
    if settings:
        left = ", ".join(f"{key} = {value}" for key, value in settings.items())
        notes.append(f"Settings of {serving.engine} that have no equal in Ollama, and are left out: {left}.")
    notes.append("Keys, guards, limits, the audit log and rollout are the gateway's, and not in it.")
    lines = [f"FROM ./{name}", *(f"PARAMETER {key} {value}" for key, value in parameters.items())]
    return {"Modelfile": (comment(notes) + "\n".join(lines) + "\n").encode()}
