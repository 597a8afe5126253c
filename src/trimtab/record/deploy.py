"""deploy.toml: the lockfile of a decision. It names everything a server needs to run exactly what was judged.

It is written by hand-made code (one text for one content) and read back with `tomllib`, every field checked.
"""

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self, cast, get_args

from trimtab.core.decision import Verdict
from trimtab.core.deployment import Deployment, EngineBuild, Recipe, Settings
from trimtab.core.errors import InputError
from trimtab.core.files import digest_of, write_atomic
from trimtab.core.model import SnapshotFile, SnapshotFormat
from trimtab.core.toml import to_toml
from trimtab.record.disk import check_schema, disk_error, sentences

SCHEMA = "trimtab.deploy/1"
_SHA256 = re.compile(r"[0-9a-f]{64}")
_HEADER = """\
# Lockfile of a deployment that was judged. Commit it; do not edit it: change the request and run trimtab again.
"""


@dataclass(frozen=True, kw_only=True)
class LockedReference:
    """What a deployment was held against, so that it can be made again: source, engine, recipe's name, settings, digest of the weights.

    own_recipe: the recipe whole, where it came from a file of the user's, which may be gone or another one by now; None = a shipped one
    """

    source: str
    engine: str
    recipe: str
    settings: Settings
    weights_sha256: str
    own_recipe: Recipe | None = None

    @classmethod
    def of(cls, named: Mapping[str, Any]) -> Self:
        """From how decision.json names it."""
        own = named.get("own_recipe")
        return cls(
            source=named["source"],
            engine=named["engine"],
            recipe=named["recipe"],
            settings=Settings.parse(named["settings"]),
            weights_sha256=named["weights_sha256"],
            own_recipe=Recipe(**own) if own else None,
        )


@dataclass(frozen=True, kw_only=True)
class DeployLock:
    """What deploy.toml holds.

    id: the candidate's id; verdict, decision_sha256: of the decision it rests on
    source, revision, format, source_files, source_sha256: the snapshot the recipe starts from
    weights_sha256: digest of the snapshot the engine opens, equal to source_sha256 if the recipe changes nothing
    template_sha256: digest of the chat template, empty if the model has none
    settings: as given to the engine; those left out are its own defaults
    policy, suite, workload: name, and digest of the content; reference_sha256: digest of the reference deployment
    machine_sha256: hardware it was judged on; machine: the same in words
    made: UTC, ISO 8601; trimtab: version that wrote the file
    reference: None in files of earlier versions
    known_answers: sub-suite -> item id -> value that the deployment was certified with: computed again, they tell whether outputs changed
    """

    id: str
    verdict: Verdict
    decision_sha256: str
    source: str
    revision: str
    format: SnapshotFormat
    source_files: tuple[SnapshotFile, ...]
    source_sha256: str
    weights_sha256: str
    recipe: Recipe
    template_sha256: str
    build: EngineBuild
    settings: Settings
    policy: str
    policy_sha256: str
    suite: str
    suite_sha256: str
    workload: str
    workload_sha256: str
    reference_sha256: str
    machine: str
    machine_sha256: str
    made: str
    trimtab: str
    reference: LockedReference | None = None
    known_answers: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    @property
    def deployment(self) -> Deployment:
        """The deployment that was judged; its digest is its identity."""
        return Deployment(
            weights_sha256=self.weights_sha256,
            source_sha256=self.source_sha256,
            template_sha256=self.template_sha256,
            recipe=self.recipe.name,
            build=self.build,
            settings=self.settings,
        )


def deploy_toml(lock: DeployLock) -> str:
    """The text of deploy.toml. Raises InputError for names that are not valid Unicode."""
    document: dict[str, Any] = {
        "id": lock.id,
        "deployment_sha256": lock.deployment.digest,
        "made": lock.made,
        "trimtab": lock.trimtab,
        "decision": {"verdict": lock.verdict, "sha256": lock.decision_sha256, "reference_sha256": lock.reference_sha256},
        "policy": {"name": lock.policy, "sha256": lock.policy_sha256},
        "suite": {"name": lock.suite, "sha256": lock.suite_sha256},
        "workload": {"name": lock.workload, "sha256": lock.workload_sha256},
        "weights": {
            "source": lock.source,
            "revision": lock.revision,
            "format": lock.format,
            "source_sha256": lock.source_sha256,
            "sha256": lock.weights_sha256,
            "files": [{"name": file.name, "size_bytes": file.size_bytes, "sha256": file.sha256} for file in lock.source_files],
        },
        "recipe": _recipe_table(lock.recipe),
        "template": {"sha256": lock.template_sha256},
        "engine": {"name": lock.build.engine, "version": lock.build.version, "details": lock.build.details},
        "settings": lock.settings.given(),
        "machine": {"title": lock.machine, "sha256": lock.machine_sha256},
    }
    if lock.reference is not None:
        document["reference"] = {
            "source": lock.reference.source,
            "engine": lock.reference.engine,
            "recipe": lock.reference.recipe,
            "weights_sha256": lock.reference.weights_sha256,
            "settings": lock.reference.settings.given(),
        }
        if lock.reference.own_recipe is not None:
            document["reference"]["own_recipe"] = _recipe_table(lock.reference.own_recipe)
    if lock.known_answers:
        document["known_answers"] = {suite: dict(values) for suite, values in lock.known_answers.items()}
    digest = _digest(tomllib.loads(to_toml(document)))
    return _HEADER + to_toml({"schema": SCHEMA, "sha256": digest, **document})


def _recipe_table(recipe: Recipe) -> dict[str, Any]:
    return {
        "name": recipe.name,
        "family": recipe.family,
        "engine": recipe.engine,
        "title": recipe.title,
        "bits_per_weight": recipe.bits_per_weight,
        "parameters": dict(recipe.parameters),
    }


def write_deploy_toml(path: Path, lock: DeployLock) -> None:
    """Write deploy.toml, whole or not at all. Raises InputError or MissingError."""
    text = deploy_toml(lock)
    with sentences(path, "write"):
        write_atomic(path, text)


def read_deploy_toml(path: Path) -> DeployLock:
    """Read deploy.toml back and check it. Raises InputError: missing, not TOML, a field absent or wrong, edited since."""
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"There is no {path}; `trimtab optimize` writes it.") from None
    except OSError as error:
        raise disk_error(path, error, "read") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InputError(f"{path} is not valid TOML: {error}.") from None
    if not str(document.get("schema", "")).startswith(SCHEMA.partition("/")[0] + "/"):
        raise InputError(f"{path} is not a lockfile of trimtab; give the deploy.toml that `trimtab optimize` or `trimtab compare` wrote.")
    check_schema(document, SCHEMA, path)
    content = {key: value for key, value in document.items() if key not in ("schema", "sha256")}
    if _digest(content) != document.get("sha256"):
        raise InputError(f"{path} was edited: its fields no longer match its sha256; write it anew with trimtab optimize.")
    return _parse(_Fields(path, document, ""))


def _digest(content: Mapping[str, Any]) -> str:
    try:
        return digest_of(content)
    except TypeError:  # a date: not something deploy_toml writes
        return ""


def _parse(top: "_Fields") -> DeployLock:
    decision, weights, engine = (top.table(name) for name in ("decision", "weights", "engine"))
    named = {name: top.table(name) for name in ("policy", "suite", "workload")}
    verdict = decision.one_of("verdict", get_args(Verdict))
    files = tuple(
        SnapshotFile(name=file.text("name"), size_bytes=file.count("size_bytes"), sha256=file.sha256("sha256"))
        for file in weights.tables("files")
    )
    return DeployLock(
        id=top.text("id"),
        verdict=cast(Verdict, verdict),
        decision_sha256=decision.sha256("sha256"),
        reference_sha256=decision.sha256("reference_sha256"),
        source=weights.text("source"),
        revision=weights.text("revision"),
        format=cast(SnapshotFormat, weights.one_of("format", get_args(SnapshotFormat))),
        source_files=files,
        source_sha256=weights.sha256("source_sha256"),
        weights_sha256=weights.sha256("sha256"),
        recipe=_recipe(top.table("recipe")),
        template_sha256=top.table("template").sha256("sha256", may_be_empty=True),
        build=EngineBuild(engine=engine.text("name"), version=engine.text("version"), details=engine.text("details")),
        settings=Settings.parse(top.table("settings").values),
        policy=named["policy"].text("name"),
        policy_sha256=named["policy"].sha256("sha256"),
        suite=named["suite"].text("name"),
        suite_sha256=named["suite"].sha256("sha256"),
        workload=named["workload"].text("name"),
        workload_sha256=named["workload"].sha256("sha256"),
        machine=top.table("machine").text("title"),
        machine_sha256=top.table("machine").sha256("sha256"),
        made=top.text("made"),
        trimtab=top.text("trimtab"),
        reference=_reference(top.table("reference")) if "reference" in top.values else None,
        known_answers=_known_answers(top.table("known_answers")) if "known_answers" in top.values else {},
    )


def _recipe(table: "_Fields") -> Recipe:
    return Recipe(
        name=table.text("name"),
        family=table.text("family"),
        engine=table.text("engine"),
        title=table.text("title"),
        bits_per_weight=table.number("bits_per_weight"),
        parameters=table.table("parameters").values,
    )


def _reference(table: "_Fields") -> LockedReference:
    return LockedReference(
        source=table.text("source"),
        engine=table.text("engine"),
        recipe=table.text("recipe"),
        weights_sha256=table.sha256("weights_sha256"),
        settings=Settings.parse(table.table("settings").values),
        own_recipe=_recipe(table.table("own_recipe")) if "own_recipe" in table.values else None,
    )


def _known_answers(table: "_Fields") -> dict[str, dict[str, float]]:
    return {suite: {item_id: table.table(suite).number(item_id) for item_id in table.table(suite).values} for suite in table.values}


@dataclass(frozen=True)
class _Fields:
    """One table of the file, and readers that name the field they miss."""

    path: Path
    values: Mapping[str, Any]
    name: str

    def _get(self, key: str, kinds: tuple[type, ...], what: str) -> Any:
        value = self.values.get(key)
        if not isinstance(value, kinds) or isinstance(value, bool):
            raise InputError(f"{self.path} lacks {what} at {self.name}{key}; write it anew with trimtab optimize.")
        return value

    def table(self, key: str) -> "_Fields":
        return _Fields(self.path, self._get(key, (dict,), "a table"), f"{self.name}{key}.")

    def tables(self, key: str) -> list["_Fields"]:
        found = self._get(key, (list,), "a list of tables")
        return [_Fields(self.path, item if isinstance(item, dict) else {}, f"{self.name}{key}.") for item in found]

    def text(self, key: str) -> str:
        return str(self._get(key, (str,), "a text"))

    def count(self, key: str) -> int:
        return int(self._get(key, (int,), "a whole number"))

    def number(self, key: str) -> float:
        return float(self._get(key, (int, float), "a number"))

    def one_of(self, key: str, words: tuple[str, ...]) -> str:
        value = self.text(key)
        if value not in words:
            raise InputError(f"{self.path}: {self.name}{key} is {value!r}; it must be one of {', '.join(words)}.")
        return value

    def sha256(self, key: str, *, may_be_empty: bool = False) -> str:
        value = self.text(key)
        if not _SHA256.fullmatch(value) and not (may_be_empty and not value):
            raise InputError(f"{self.path}: {self.name}{key} is not a sha256 (64 hex digits).")
        return value
