"""The best deployment as what starts it: commands, or manifests for a cluster."""

import json
import re
import shlex
from typing import Any

from trimtab.core.errors import InputError
from trimtab.flows.parts.plan_told import found_as
from trimtab.package.manifests.text import yaml_bytes
from trimtab.plan.search import emit_serve
from trimtab.plan.search.emit_serve import Deployed
from trimtab.plan.search.serve import ServePlan

SERVE_FORMATS = ("vllm", "sglang", "trtllm", "kserve", "rayservice")


def emitted_service(emit: str, plan: ServePlan, model: str) -> dict[str, Any]:
    """Files by name, and what they cannot say. Raises InputError for a layout that the format cannot express."""
    found, unknown = found_as(model, plan.job.architecture)
    one = Deployed(job=plan.job, model=found, replicas=plan.replicas, least_replicas=plan.least_replicas)
    name = service_name(model)
    notes = [*([f"{plan.to_certify}."] if plan.to_certify else []), *unknown]
    if plan.job.prefill_devices:
        return _disaggregated(emit, one, name, notes)
    many = [f"Start it {plan.replicas} times, behind one address."] if plan.replicas > 1 else []
    if emit == "kserve":
        return _told(emit, {"kserve.yaml": yaml_bytes(notes, emit_serve.llm_inference_service(one, name)).decode()}, notes)
    if emit == "rayservice":
        return _told(emit, {"rayservice.yaml": yaml_bytes(notes, emit_serve.ray_service(one, name)).decode()}, notes)
    return _told(emit, _half(emit, one), [*notes, *many])


def _disaggregated(emit: str, one: Deployed, name: str, notes: list[str]) -> dict[str, Any]:
    """Both halves, each with what starts it. Ray Serve's plain builder starts whole engines only."""
    before, after = emit_serve.halves(one)
    if emit == "kserve":
        return _told(emit, {"kserve.yaml": yaml_bytes(notes, emit_serve.llm_inference_service(after, name, before)).decode()}, notes)
    if emit == "rayservice":
        raise InputError(
            "--emit rayservice starts whole engines, and the best deployment reads prompts on devices of its own; give kserve."
        )
    files: dict[str, str] = {}
    for half in (before, after):
        told = _half(emit, half)
        files |= {f"{half.role}.{file}": text for file, text in told.items()}
        notes.append(f"Start {half.role}.serve.sh {half.replicas} times.")
    return _told(emit, files, [*notes, "A router of the engine's own must send each prompt to one half, and its cache to the other."])


def _half(emit: str, one: Deployed) -> dict[str, str]:
    """What starts one engine. Raises InputError for a format that is none of an engine's."""
    if emit == "vllm":
        return {"serve.sh": shlex.join(emit_serve.vllm(one)) + "\n"}
    if emit == "sglang":
        return {"serve.sh": shlex.join(emit_serve.sglang(one)) + "\n"}
    if emit == "trtllm":
        words, config = emit_serve.trtllm(one)
        return {"serve.sh": shlex.join(words) + "\n", "trtllm.yaml": json.dumps(config, indent=2) + "\n"}
    raise InputError(f"--emit: {emit!r} is not known; give one of {', '.join(SERVE_FORMATS)}.")


def service_name(model: str) -> str:
    """What clusters take as a name, from what the model is called."""
    plain = re.sub(r"[^a-z0-9]+", "-", model.rpartition("/")[2].partition("@")[0].lower()).strip("-")[:60].rstrip("-")
    return plain if plain[:1].isalpha() else f"model-{plain}".rstrip("-")


def _told(emit: str, files: dict[str, str], notes: list[str]) -> dict[str, Any]:
    return {"format": emit, "files": files, "notes": notes}
