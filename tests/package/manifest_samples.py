"""A lock and what was measured with it, in the variants that formats treat differently."""

import dataclasses
from typing import Any

from trimtab.core.deployment import EngineBuild, Recipe, Settings
from trimtab.core.files import digest_of
from trimtab.core.model import SnapshotFile
from trimtab.core.release import ClusterWish, Serving
from trimtab.record.deploy import DeployLock, deploy_toml

MIB = 2**20


def lock(**changes: Any) -> DeployLock:
    """An OpenVINO deployment whose recipe made 8-bit weights of a GGUF."""
    values: dict[str, Any] = {
        "id": "openvino int8-asym",
        "verdict": "pass",
        "decision_sha256": digest_of("decision"),
        "source": "pypi:llm-demo==1",
        "revision": "1",
        "format": "gguf",
        "source_files": (SnapshotFile(name="demo.Q4_1.gguf", size_bytes=98 * MIB, sha256=digest_of("file")),),
        "source_sha256": digest_of("source"),
        "weights_sha256": digest_of("weights"),
        "recipe": Recipe(name="openvino-int8-asym", family="openvino", engine="openvino"),
        "template_sha256": digest_of("template"),
        "build": EngineBuild(engine="openvino", version="2026.4"),
        "settings": Settings(slots=4, context_tokens=1600),
        "policy": "standard",
        "policy_sha256": digest_of("policy"),
        "suite": "core",
        "suite_sha256": digest_of("suite"),
        "workload": "chat",
        "workload_sha256": digest_of("workload"),
        "reference_sha256": digest_of("reference"),
        "machine": "a processor",
        "machine_sha256": digest_of("machine"),
        "made": "2026-11-25T00:00:00Z",
        "trimtab": "0.1.0",
        "known_answers": {"arithmetic": {"add-1": -0.5}},
    }
    return DeployLock(**values | changes)


def as_shipped(settings: Settings, **changes: Any) -> DeployLock:
    """llama.cpp on the source's own file."""
    return lock(
        id="llamacpp as-shipped",
        weights_sha256=digest_of("source"),
        recipe=Recipe(name="as-shipped", family="gguf", engine="llamacpp"),
        build=EngineBuild(engine="llamacpp", version="0.3"),
        settings=settings,
        **changes,
    )


OPENVINO = Serving(
    name="support-chat",
    model="support-chat",
    release_id="support-chat@3",
    engine="openvino",
    extras=("openvino",),
    source="pypi:llm-demo==1",
    weights_format="openvino",
    weights_sha256=digest_of("weights"),
    weights_bytes=140 * MIB,
    memory_bytes=610_541_568,
    cold_start_s=3.066,
    cpus=2,
    slots=4,
    context_tokens=1600,
    image="registry.example/support-chat@sha256:" + "0" * 64,
    lock=deploy_toml(lock()),
)

GGUF = dataclasses.replace(
    OPENVINO,
    engine="llamacpp",
    extras=("llamacpp",),
    weights_format="gguf",
    weights_sha256=digest_of("source"),
    lock=deploy_toml(
        as_shipped(
            Settings(
                threads=2, slots=4, batch_tokens=512, microbatch_tokens=128, context_tokens=1600, kv_type="q8_0", flash_attention=True,
                load_mode="mmap", prefix_cache=False,
            )
        )
    ),
)  # fmt: skip

SAFETENSORS = dataclasses.replace(
    OPENVINO,
    source="hf:example/tiny-chat@abc123",
    weights_format="safetensors",
    weights_sha256=digest_of("source"),
    lock=deploy_toml(as_shipped(Settings(slots=4, context_tokens=1600, prefix_cache=True), source="hf:example/tiny-chat@abc123")),
)

UNMEASURED = dataclasses.replace(OPENVINO, release_id="", memory_bytes=None, cold_start_s=None, context_tokens=None, image="")

SAMPLES = {"openvino": OPENVINO, "gguf": GGUF, "safetensors": SAFETENSORS, "unmeasured": UNMEASURED}

ON_DEVICES = dataclasses.replace(
    SAFETENSORS,
    lock=deploy_toml(
        as_shipped(Settings(slots=4, context_tokens=1600, tensor_split=(0.5, 0.5), device_layers=-1), source="hf:example/tiny-chat@abc123")
    ),
)

WIDER = {
    "rayservice": dataclasses.replace(ON_DEVICES, cluster=ClusterWish(replicas=(0, 8), redis="redis.state:6379", gateway_class="istio")),
    "llminferenceservice": dataclasses.replace(ON_DEVICES, cluster=ClusterWish(replicas=(1, 8))),
    "inferencepool": dataclasses.replace(OPENVINO, cluster=ClusterWish(replicas=(3, 3), gateway_class="istio")),
}
"""Of each format for a cluster of several pods: all that can be asked of it."""
