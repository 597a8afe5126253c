"""The best deployment as what starts it: commands, or manifests for a cluster."""

import json
import re
import shlex
from typing import Any

from trimtab.core.errors import InputError
from trimtab.package.manifests.text import yaml_bytes
from trimtab.plan.search import emit_serve
from trimtab.plan.search.emit_serve import Deployed
from trimtab.plan.search.serve import ServePlan

SERVE_FORMATS = ("vllm", "sglang", "trtllm", "kserve", "rayservice")


def emitted_service(emit: str, plan: ServePlan, model: str) -> dict[str, Any]:
    """Files by name, and what they cannot say. Raises InputError for a layout that the format cannot express."""
    one = Deployed(job=plan.job, model=model.removeprefix("hf:"), replicas=plan.replicas)
    name = service_name(model)
    many = [f"Start it {plan.replicas} times, behind one address."] if plan.replicas > 1 else []
    notes = [f"{plan.to_certify}."] if plan.to_certify else []
    if plan.job.prefill_devices:
        notes.append("Prompts are read on devices of their own: this is the half that writes.")
    if emit == "vllm":
        return _told(emit, {"serve.sh": shlex.join(emit_serve.vllm(one)) + "\n"}, [*notes, *many])
    if emit == "sglang":
        return _told(emit, {"serve.sh": shlex.join(emit_serve.sglang(one)) + "\n"}, [*notes, *many])
    if emit == "trtllm":
        words, config = emit_serve.trtllm(one)
        files = {"serve.sh": shlex.join(words) + "\n", "trtllm.yaml": json.dumps(config, indent=2) + "\n"}
        return _told(emit, files, [*notes, *many])
    if emit == "kserve":
        return _told(emit, {"kserve.yaml": yaml_bytes(notes, emit_serve.llm_inference_service(one, name)).decode()}, notes)
    if emit == "rayservice":
        return _told(emit, {"rayservice.yaml": yaml_bytes(notes, emit_serve.ray_service(one, name)).decode()}, notes)
    raise InputError(f"--emit: {emit!r} is not known; give one of {', '.join(SERVE_FORMATS)}.")


def service_name(model: str) -> str:
    """What clusters take as a name, from what the model is called."""
    plain = re.sub(r"[^a-z0-9]+", "-", model.rpartition("/")[2].partition("@")[0].lower()).strip("-")[:60].rstrip("-")
    return plain if plain[:1].isalpha() else f"model-{plain}".rstrip("-")


def _told(emit: str, files: dict[str, str], notes: list[str]) -> dict[str, Any]:
    return {"format": emit, "files": files, "notes": notes}
