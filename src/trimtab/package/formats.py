"""What `trimtab export` can make, by name. A new format is one line here and one function.

A manifest is a function(Serving) -> Mapping[file name, bytes], a card a function(CardFacts) -> Mapping[file name, bytes]. Both are pure:
same input, same bytes.
"""

import importlib
from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any, cast

from trimtab.core.errors import InputError
from trimtab.core.release import ClusterWish, Serving
from trimtab.package.cards.facts import CardFacts

Files = Mapping[str, bytes]

PACKAGES: Mapping[str, str] = {
    "modelpack": "the weights and their evidence as a CNCF ModelPack artifact, in an OCI layout",
    "image": "a container image that serves it: engine, weights, gateway, configuration",
    "bundle": "a folder that installs, verifies and serves it with no network",
}
MANIFESTS: Mapping[str, tuple[str, str]] = {
    "knative": ("trimtab.package.manifests.knative:knative", "a Knative Service that scales to zero"),
    "kserve": (
        "trimtab.package.manifests.kserve:kserve",
        "a KServe InferenceService, and an LLMInferenceService where vLLM opens the weights",
    ),
    "rayservice": (
        "trimtab.package.manifests.rayservice:rayservice",
        "a KubeRay RayService that runs trimtab's workers, and the gateway before it",
    ),
    "llminferenceservice": (
        "trimtab.package.manifests.llm_inference:llm_inference_service",
        "a KServe LLMInferenceService with its scheduler, for weights that vLLM opens",
    ),
    "inferencepool": (
        "trimtab.package.manifests.inference_pool:inference_pool",
        "gateway pods behind a Gateway API InferencePool, its endpoint picker and an HTTPRoute",
    ),
    "kubernetes": ("trimtab.package.manifests.kubernetes:kubernetes", "Deployment, Service, configuration, volume and network policy"),
    "compose": ("trimtab.package.manifests.compose:compose", "a Compose file with its configuration"),
    "systemd": ("trimtab.package.manifests.systemd:systemd", "a hardened systemd unit, its environment and how to install it"),
    "vllm": ("trimtab.package.manifests.vllm:vllm", "a configuration of `vllm serve`"),
    "prometheus-rules": ("trimtab.package.manifests.prometheus:prometheus_rules", "Prometheus alerts on the gateway's own metrics"),
    "grafana": ("trimtab.package.manifests.grafana:grafana", "a Grafana dashboard of the gateway's own metrics"),
    "modelfile": ("trimtab.package.manifests.modelfile:modelfile", "an Ollama Modelfile for GGUF weights"),
}
CARDS: Mapping[str, tuple[str, str]] = {
    "cards": ("trimtab.package.cards:card_files", "model card, CycloneDX ML-BOM, a page for everybody and a technical file"),
}
"""Name -> (module:function, what it is in half a line)."""

WISHES: Mapping[str, tuple[str, ...]] = {
    "rayservice": ("replicas", "redis", "gateway_class"),
    "llminferenceservice": ("replicas", "weights_uri"),
    "inferencepool": ("replicas", "gateway_class"),
}
"""What of a `ClusterWish` a format heeds; all others heed nothing of it."""


def format_lines() -> dict[str, str]:
    """All formats, each with what it is."""
    named = {**MANIFESTS, **CARDS}
    return {**PACKAGES, **{name: line for name, (_, line) in named.items()}}


def check_wish(name: str, wish: ClusterWish) -> None:
    """Raises InputError for a wish that the format would pass over."""
    heeded = WISHES.get(name, ())
    for item in fields(wish):
        if getattr(wish, item.name) and item.name not in heeded:
            those = ", ".join(form for form, names in WISHES.items() if item.name in names)
            raise InputError(f"--{item.name.replace('_', '-')} is for {those}; {name} has nothing of the kind.")


def manifest_files(name: str, serving: Serving) -> Files:
    """The files of a manifest format."""
    return cast(Files, _function(MANIFESTS[name][0])(serving))


def card_files(name: str, facts: CardFacts) -> Files:
    """The files of a card format."""
    return cast(Files, _function(CARDS[name][0])(facts))


def _function(target: str) -> Callable[..., Any]:
    module, _, name = target.partition(":")
    return cast(Callable[..., Any], getattr(importlib.import_module(module), name))
