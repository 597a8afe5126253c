"""What strict validation of each format is made of: document -> the first thing wrong, empty if nothing is.

Core kinds: the OpenAPI schemas of Kubernetes that the package kubernetes-validate ships, in their strict form. Knative: the typed models of
cloudcoil, generated from Knative's own CRDs. Compose: the schema of compose-spec (Apache-2.0) that the package check-jsonschema ships.
KServe's InferenceService has no schema in a package: the fields that are used are written out here from its API's source, and what is a
PodSpec there is Kubernetes' own; custom_resources.py has other projects' resources in the same way, with all their fields. vLLM: its
argument names and their types, as its documentation of engine arguments has them.
"""

import functools
import json
from collections.abc import Callable, Mapping
from importlib.resources import files
from typing import Any

import jsonschema_rs
import pytest
from custom_resources import SPECS

Check = Callable[[Mapping[str, Any]], str]

KUBERNETES = "1.37.0"
_DEFINITIONS = "/api/_definitions.json"


def by_schema(schema: Mapping[str, Any], registry: Any = None) -> Check:
    validator = jsonschema_rs.validator_for(schema, registry=registry)

    def check(document: Mapping[str, Any]) -> str:
        error = next(iter(validator.iter_errors(document)), None)
        return "" if error is None else f"{'.'.join(map(str, error.instance_path))}: {error.message}"[:300]

    return check


@functools.cache
def _kubernetes_file(name: str) -> Any:
    pytest.importorskip("kubernetes_validate", reason="schemas of Kubernetes: pip install kubernetes-validate")
    folder = files("kubernetes_validate") / "kubernetes-json-schema" / f"v{KUBERNETES}-local-strict"
    return json.loads((folder / name).read_text(encoding="utf-8"))


@functools.cache
def _definitions() -> Any:
    return jsonschema_rs.Registry([(f"json-schema://{_DEFINITIONS}", _kubernetes_file("_definitions.json"))])


@functools.cache
def kubernetes(kind: str, api_version: str) -> Check:
    """A core kind, unknown fields refused."""
    group, _, version = api_version.rpartition("/")
    name = "-".join(part for part in (kind.lower(), group.partition(".")[0], version) if part)
    return by_schema({"$id": f"json-schema:///api/{name}.json", **_kubernetes_file(f"{name}.json")}, _definitions())


def _strict(properties: Mapping[str, Any], required: tuple[str, ...] = ()) -> dict[str, Any]:
    return {"type": "object", "additionalProperties": False, "required": list(required), "properties": dict(properties)}


_TEXTS = {"type": "object", "additionalProperties": {"type": "string"}}
_COUNT = {"type": "integer", "minimum": 0}
_META = _strict({"name": {"type": "string", "pattern": "^[a-z]([-a-z0-9]*[a-z0-9])?$"}, "labels": _TEXTS, "annotations": _TEXTS}, ("name",))


def _ref(name: str) -> dict[str, str]:
    return {"$ref": f"#/$defs/{name}"}


def _kind(api_version: str, kind: str, spec: Mapping[str, Any]) -> dict[str, Any]:
    top = {"apiVersion": {"const": api_version}, "kind": {"const": kind}, "metadata": _META, "spec": spec}
    return {"$defs": _kubernetes_file("_definitions.json")["$defs"], **_strict(top, tuple(top))}


@functools.cache
def inference_service() -> Check:
    """InferenceService v1beta1 with a container of one's own: pkg/apis/serving/v1beta1/predictor.go (PodSpec inline) and component.go."""
    pod = _kubernetes_file("_definitions.json")["$defs"]["io.k8s.api.core.v1.PodSpec"]
    extension = {
        "minReplicas": _COUNT,
        "maxReplicas": _COUNT,
        "scaleTarget": _COUNT,
        "scaleMetric": {"enum": ["cpu", "memory", "concurrency", "rps"]},
        "containerConcurrency": _COUNT,
        "timeout": _COUNT,
        "canaryTrafficPercent": _COUNT,
        "labels": _TEXTS,
        "annotations": _TEXTS,
    }
    predictor = _strict({**pod["properties"], **extension}, ("containers",))
    return by_schema(_kind("serving.kserve.io/v1beta1", "InferenceService", _strict({"predictor": predictor}, ("predictor",))))


@functools.cache
def custom_resource(api_version: str, kind: str) -> Check:
    """A resource of Ray's, KServe's or the Gateway API's: see custom_resources.py."""
    return by_schema(_kind(api_version, kind, SPECS[api_version, kind]))


@functools.cache
def knative_service() -> Check:
    """Knative's Service by cloudcoil's models, taken as a schema: by themselves they let unknown fields pass."""
    serving = pytest.importorskip(
        "cloudcoil.models.knative_serving.serving.v1", reason="models of Knative: pip install cloudcoil.models.knative-serving"
    )
    schema = serving.Service.model_json_schema(by_alias=True)
    for one in (schema, *schema["$defs"].values()):
        if "properties" in one:
            one["additionalProperties"] = False
    return by_schema({**schema, "required": ["apiVersion", "kind", "metadata", "spec"]})


@functools.cache
def compose_file() -> Check:
    """The Compose specification."""
    pytest.importorskip("check_jsonschema", reason="schema of compose-spec: pip install check-jsonschema")
    path = files("check_jsonschema") / "builtin_schemas" / "vendor" / "compose-spec.json"
    return by_schema(json.loads(path.read_text(encoding="utf-8")))


@functools.cache
def vllm_config() -> Check:
    """Arguments of `vllm serve` (docs.vllm.ai, engine arguments and server arguments), those that are used here."""
    known = {
        "model": {"type": "string", "minLength": 1},
        "revision": {"type": "string"},
        "tokenizer": {"type": "string"},
        "served-model-name": {"type": "string"},
        "host": {"type": "string"},
        "port": {"type": "integer", "minimum": 1, "maximum": 65535},
        "max-model-len": {"type": "integer", "minimum": 1},
        "max-num-seqs": {"type": "integer", "minimum": 1},
        "max-num-batched-tokens": {"type": "integer", "minimum": 1},
        "enable-prefix-caching": {"const": True},
        "no-enable-prefix-caching": {"const": True},
    }
    return by_schema(_strict(known, ("model",)))


def of_document(document: Mapping[str, Any]) -> Check:
    """The validator for one document of a cluster's file, by what it says it is."""
    kind, api_version = document["kind"], document["apiVersion"]
    if kind == "InferenceService":
        return inference_service()
    if (api_version, kind) in SPECS:
        return custom_resource(api_version, kind)
    if api_version == "serving.knative.dev/v1":
        return knative_service()
    return kubernetes(kind, api_version)
