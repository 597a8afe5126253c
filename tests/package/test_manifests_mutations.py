"""The validation of manifests can fail: faults put into valid ones, one at a time, are found."""

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
import yaml
from manifest_mutations import Mutation, mutations
from manifest_samples import OPENVINO, SAFETENSORS, WIDER
from manifest_schemas import Check, compose_file, of_document, vllm_config

from trimtab.core.release import Serving
from trimtab.package.formats import manifest_files

LEAST_DELETED = {"knative": 4, "kserve": 8, "kubernetes": 30, "vllm": 1, "rayservice": 60, "llminferenceservice": 8, "inferencepool": 60}
"""How many deletions take something that the format requires; in Compose nearly nothing is."""


def checked(form: str, serving: Serving) -> Iterator[tuple[Mapping[str, Any], Check]]:
    for name, data in manifest_files(form, serving).items():
        for document in yaml.safe_load_all(data) if name.endswith(".yaml") else ():
            yield document, {"compose": compose_file, "vllm": vllm_config}.get(form, lambda document=document: of_document(document))()


@pytest.mark.parametrize("form", ["knative", "kserve", "kubernetes", "compose", "vllm", *WIDER])
def test_faults_are_found(form: str, record_property: Any) -> None:
    serving = WIDER.get(form) or (SAFETENSORS if form in ("vllm", "kserve") else OPENVINO)
    tried: Counter[str] = Counter()
    found: Counter[str] = Counter()
    missed: list[Mutation] = []
    for document, check in checked(form, serving):
        assert check(document) == ""
        for mutation in mutations(document):
            tried[mutation.kind] += 1
            if check(mutation.document):
                found[mutation.kind] += 1
            elif mutation.kind != "deleted":
                missed.append(mutation)
    for kind, n in tried.items():
        record_property(kind, f"{found[kind]} of {n}")
    print(form, {kind: f"{found[kind]} of {n}" for kind, n in tried.items()})
    assert [(one.kind, one.where) for one in missed] == []
    assert tried["renamed"] >= 5
    assert found["deleted"] >= LEAST_DELETED.get(form, 0)
