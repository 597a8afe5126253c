"""The bill of materials as CycloneDX 1.7: model, engine, tests and evidence, with the model card in the model's component.

Components, licences, hashes and dependencies are written by cyclonedx-python-lib; all is held against the strict schema that it ships.
"""

import json
import uuid
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from trimtab.core.errors import MissingError, TrimtabError
from trimtab.core.files import digest_of
from trimtab.core.phrases import line
from trimtab.package.cards.facts import CardFacts, Subject, hub_id, licence_of, mapping, source_of, table
from trimtab.package.cards.figures import languages, tests
from trimtab.package.cards.model_card import model_card
from trimtab.package.cards.sentences import origin

if TYPE_CHECKING:
    from cyclonedx.model import HashType, Property
    from cyclonedx.model.bom import Bom
    from cyclonedx.model.component import Component
    from packageurl import PackageURL

MODEL, ROOT, SUITE = "model", "deployment", "suite"
_NAMESPACE = uuid.UUID("6f1d1c0e-7a0b-5c52-9f0e-5d0f5a5f2a71")
_PACKAGES = {
    "ctranslate2": ("ctranslate2", "tokenizers"),
    "llamacpp": ("llama-cpp-python",),
    "openvino": ("openvino", "openvino-genai"),
    "ortgenai": ("onnxruntime-genai", "onnxruntime", "transformers"),
    "transformers": ("transformers", "torch", "torchao"),
}
"""Engine -> the packages it comes in, as decision.json names their versions."""


def bom_json(facts: CardFacts, subject: Subject) -> str:
    """bom.cdx.json; the serial number follows from the content. Raises MissingError without the extra `package`."""
    try:
        from cyclonedx.output import make_outputter
        from cyclonedx.schema import OutputFormat, SchemaVersion
    except ImportError as error:
        raise MissingError(
            f"The bill of materials needs {error.name}, which is not installed.", "pip install 'trimtab[package]'"
        ) from error
    bom = _bom(facts, subject)
    document: dict[str, Any] = json.loads(make_outputter(bom, OutputFormat.JSON, SchemaVersion.V1_7).output_as_string())
    if _moment(facts) is None:
        document["metadata"].pop("timestamp", None)
    own = next(part for part in document["components"] if part["bom-ref"] == MODEL)
    own["modelCard"] = model_card(facts, subject, SUITE if tests(facts) else "")
    document.pop("serialNumber", None)
    document["serialNumber"] = uuid.uuid5(_NAMESPACE, digest_of(document)).urn
    text = json.dumps(document, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n"
    _check(text)
    return text


def _check(text: str) -> None:
    from cyclonedx.exception import MissingOptionalDependencyException
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    try:
        wrong = JsonStrictValidator(SchemaVersion.V1_7).validate_str(text)
    except MissingOptionalDependencyException as error:
        raise MissingError(
            "The bill of materials cannot be checked: jsonschema is not installed.", "pip install 'trimtab[package]'"
        ) from error
    if wrong is not None:
        raise TrimtabError(f"The bill of materials does not fit the schema of CycloneDX 1.7: {line(wrong.data.message, 300)}")


def _bom(facts: CardFacts, subject: Subject) -> "Bom":
    from cyclonedx.model.bom import Bom, BomMetaData
    from cyclonedx.model.tool import ToolRepository

    root, model = _root(facts, subject), _model(facts, subject)
    engine, packages = _engine(facts, subject)
    tool = _component("trimtab", "application", ref="tool", version=mapping(facts.decision.get("versions")).get("trimtab"))
    data = [*_suite(facts), *_evidence(facts)]
    bom = Bom(
        serial_number=_NAMESPACE,
        metadata=BomMetaData(component=root, tools=ToolRepository(components=[tool]), timestamp=_moment(facts)),
        components=[model, engine, *packages, *data],
    )
    bom.register_dependency(root, [model, engine])
    bom.register_dependency(engine, packages)
    return bom


def _moment(facts: CardFacts) -> datetime | None:
    """When the release was made, else when the decision was; None if neither says so."""
    said = facts.release.made if facts.release else facts.decision.get("finished") or facts.lock.get("made")
    try:
        found = datetime.fromisoformat(str(said))
    except ValueError:
        return None
    return found if found.tzinfo is not None else None


def _component(name: str, kind: str, *, ref: str, version: Any = None, licence: str = "", **more: Any) -> "Component":
    from cyclonedx.contrib.license.factories import LicenseFactory
    from cyclonedx.model.component import Component, ComponentType

    licences = [LicenseFactory().make_from_string(licence)] if licence else []
    return Component(
        name=line(name, 200) or "?",
        type=ComponentType(kind),
        bom_ref=ref,
        version=line(version, 200) if version else None,
        licenses=licences,
        **more,
    )


def _root(facts: CardFacts, subject: Subject) -> "Component":
    """What is described: the deployment as it is served."""
    decision, lock, release = facts.decision, facts.lock, facts.release
    settings = mapping(subject.deployment.get("settings"))
    said = {
        "trimtab:verdict": subject.verdict,
        "trimtab:deployment_sha256": subject.deployment.get("deployment_sha256"),
        "trimtab:decision_sha256": release.decision_sha256 if release else mapping(lock.get("decision")).get("sha256"),
        "trimtab:policy": mapping(decision.get("policy")).get("name"),
        "trimtab:policy_sha256": mapping(decision.get("policy")).get("sha256"),
        "trimtab:machine": mapping(lock.get("machine")).get("title"),
        "trimtab:owner": release.use.owner if release else None,
        **{f"trimtab:setting:{line(key, 100)}": value for key, value in settings.items()},
    }
    return _component(subject.name, "application", ref=ROOT, version=subject.version, properties=_properties(said))


def _properties(said: dict[str, Any]) -> list["Property"]:
    from cyclonedx.model import Property

    return [Property(name=name, value=line(value, 2000)) for name, value in said.items() if value not in (None, "")]


def _model(facts: CardFacts, subject: Subject) -> "Component":
    from cyclonedx.model.component import Pedigree

    weights, recipe = mapping(facts.lock.get("weights")), mapping(facts.lock.get("recipe"))
    stored_anew = bool(recipe) and mapping(recipe.get("parameters")).get("type") != "as-shipped"
    files = table(weights.get("files"))
    said = {
        "trimtab:weights_sha256": subject.deployment.get("weights_sha256"),
        "trimtab:recipe": recipe.get("name") or subject.deployment.get("recipe"),
        "trimtab:bits_per_weight": recipe.get("bits_per_weight"),
        "trimtab:template_sha256": mapping(facts.lock.get("template")).get("sha256"),
    }
    return _component(
        facts.describe.get("name") or subject.name,
        "machine-learning-model",
        ref=MODEL,
        version=subject.version or None,
        licence=licence_of(facts),
        description=origin(facts, subject) or None,
        hashes=[] if stored_anew or len(files) != 1 else _hashes(files[0].get("sha256")),
        properties=_properties(said),
        pedigree=Pedigree(ancestors=list(_ancestors(facts)), notes=origin(facts, subject) or None),
    )


def _ancestors(facts: CardFacts) -> Iterable["Component"]:
    """The weights as they came, with their files, and the models that those were made from."""
    weights, source = mapping(facts.lock.get("weights")), source_of(facts)
    files = table(weights.get("files"))
    parts = [
        _component(str(file.get("name", "?")), "file", ref=f"source-file-{number}", hashes=_hashes(file.get("sha256")))
        for number, file in enumerate(files, 1)
    ]
    if source:
        said = _properties({"trimtab:source": source, "trimtab:source_sha256": weights.get("source_sha256")})
        yield _component(
            hub_id(source)[0] or source.partition(":")[2].partition("==")[0].rpartition("/")[2] or source,
            "machine-learning-model",
            ref="source",
            version=weights.get("revision"),
            licence=licence_of(facts),
            purl=_purl(source, str(weights.get("revision") or "")),
            components=parts,
            properties=said,
        )
    for number, one in enumerate(facts.release.licences[1:] if facts.release else (), 1):
        where = _properties({"trimtab:licence_read_from": one.source})
        yield _component(one.model, "machine-learning-model", ref=f"base-{number}", licence=line(one.licence, 200), properties=where)


def _purl(source: str, revision: str) -> "PackageURL | None":
    """Of a source on the Hub or in a wheel."""
    from packageurl import PackageURL

    name, tagged = hub_id(source)
    if name:
        return PackageURL(type="huggingface", namespace=name.split("/")[0], name=name.split("/")[1], version=revision or tagged or None)
    if source.startswith("pypi:"):
        package, _, version = source.removeprefix("pypi:").partition("==")
        return PackageURL(type="pypi", name=package, version=version or revision or None) if package else None
    return None


def _hashes(sha256: Any) -> list["HashType"]:
    from cyclonedx.model import HashAlgorithm, HashType

    text = str(sha256 or "")
    is_digest = len(text) == 64 and set(text) <= set("0123456789abcdef")
    return [HashType(alg=HashAlgorithm.SHA_256, content=text)] if is_digest else []


def _engine(facts: CardFacts, subject: Subject) -> tuple["Component", Sequence["Component"]]:
    """The engine as it was built, and the packages it comes in."""
    from packageurl import PackageURL

    build = mapping(subject.deployment.get("build"))
    name = str(build.get("engine") or subject.deployment.get("engine") or "engine")
    versions = mapping(facts.decision.get("versions"))
    packages = [
        _component(
            package,
            "library",
            ref=f"package-{package}",
            version=versions[package],
            purl=PackageURL(type="pypi", name=package, version=line(versions[package], 200)),
        )
        for package in _PACKAGES.get(name, ())
        if versions.get(package)
    ]
    said = _properties({"trimtab:build": build.get("details")})
    return _component(name, "framework", ref="engine", version=build.get("version"), properties=said), packages


def _suite(facts: CardFacts) -> Iterable["Component"]:
    suite = mapping(facts.decision.get("suite"))
    if tests(facts):
        said = _properties({"trimtab:suite_sha256": suite.get("digest"), "trimtab:languages": ", ".join(languages(facts))})
        yield _component(
            str(suite["name"]), "data", ref=SUITE, version=suite.get("version"), description=f"Tests: {tests(facts)}.", properties=said
        )


def _evidence(facts: CardFacts) -> Iterable["Component"]:
    for number, blob in enumerate(facts.release.evidence if facts.release else (), 1):
        said = _properties({"trimtab:size_bytes": blob.size_bytes})
        yield _component(blob.name, "file", ref=f"evidence-{number}", hashes=_hashes(blob.sha256), properties=said)
