"""A container image built twice with no daemon and no image registry, and run: equal digests, a chat completion from inside, what it costs.

A Debian root comes from the package mirror (mmdebstrap), engine and packages are those installed here, the weights are a lock's. skopeo
reads what was written, umoci unpacks it, runc runs it as a user without rights, on a root that is read-only. Then the same lock as a
ModelPack artifact: skopeo copies it, trimtab imports it again and, without --quick, a client of another project pulls it from a registry
that runs here.

    python benchmarks/image.py [--quick] [--lock runs/demo] [--root root.tar] [--keep FOLDER]

Needs skopeo, umoci, runc and mmdebstrap, and root's rights (and docker-registry without --quick); on Debian: apt-get install
--no-install-recommends skopeo umoci runc mmdebstrap docker-registry. Without --lock the demo model is packed as shipped; no decision stands
behind that, which the package says.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

from parts.demo_lock import write_demo_lock
from parts.kept_process import kept
from parts.oci_container import USER, Container, ask, give_home, missing_tools, running, unpack
from parts.peer_env import peer_python

from trimtab.flows.export import export
from trimtab.flows.import_ import import_package
from trimtab.package.oci import read_json_blob, read_manifest
from trimtab.record.deploy import read_deploy_toml
from trimtab.serve.server_process import free_port

ROOT_PACKAGES = "python3,libgomp1,libstdc++6"
LEFT_OUT = ("doc/*", "man/*", "info/*", "locale/*")
PEER = "modelpack-client==0.1.0"
LIMIT_S = 120.0
TARGETS = {"equal_digests": True, "answered": True, "uid": USER, "root_is_read_only": True, "imported": True, "peer_pulled": True}


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def timed(work: Callable[[], Any]) -> tuple[Any, float]:
    began_s = time.perf_counter()
    return work(), time.perf_counter() - began_s


def make_root(path: Path) -> None:
    """A Debian root of this machine's own version, from the mirror that apt uses here."""
    release = dict(line.split("=", 1) for line in Path("/etc/os-release").read_text().splitlines() if "=" in line)
    left_out = [f"--dpkgopt=path-exclude=/usr/share/{name}" for name in LEFT_OUT]
    command = ["mmdebstrap", "--quiet", "--variant=essential", f"--include={ROOT_PACKAGES}", *left_out]
    command += ["--dpkgopt=path-include=/usr/share/doc/*/copyright", release["VERSION_CODENAME"].strip('"'), str(path)]
    subprocess.run(command, check=True, stdout=sys.stderr, env={**os.environ, "SOURCE_DATE_EPOCH": "0"})


def make_key(home: Path) -> str:
    command = [sys.executable, "-m", "trimtab", "keys", "add", "bench", "-q"]
    made = subprocess.run(command, check=True, capture_output=True, text=True, env={**os.environ, "TRIMTAB_HOME": str(home)})
    return made.stdout.split()[0]


def pss_bytes(container: Container) -> int:
    return sum(process.memory_full_info().pss for process in container.processes())


def run_image(layout: Path, model: str, port: int, folder: Path) -> dict[str, Any]:
    """Run an image and ask it twice; the first answer tells the cold start."""
    home = folder / "home"
    home.mkdir()
    key = make_key(home)
    give_home(home)
    tag = json.loads((layout / "index.json").read_text())["manifests"][0]["annotations"]["org.opencontainers.image.ref.name"]
    _, unpack_s = timed(lambda: unpack(layout, tag, folder / "bundle", home))
    body = {"model": model, "messages": [{"role": "user", "content": "Name one colour."}], "max_tokens": 16, "temperature": 0}
    url = f"http://127.0.0.1:{port}/v1/chat/completions"
    log = folder / "container.log"
    with running(folder / "bundle", "trimtab-bench", log) as container:
        try:
            first = ask(url, key, body, limit_s=LIMIT_S)
        except TimeoutError as error:
            raise SystemExit(f"{error}\n{log.read_text(errors='replace')}") from None
        cold_s = time.perf_counter() - container.began_s
        _, warm_s = timed(lambda: ask(url, key, body, limit_s=LIMIT_S))
        written = container.run_inside("sh", "-c", "echo x > /opt/trimtab/written")
        return {
            "answer": first["choices"][0]["message"]["content"],
            "answered": bool(first["choices"][0]["message"]["content"]),
            "cold_start_s": round(cold_s, 2),
            "warm_s": round(warm_s, 2),
            "unpack_s": round(unpack_s, 1),
            "memory_mb": round(pss_bytes(container) / 1e6),
            "uid": container.processes()[-1].uids().real,
            "root_is_read_only": written.returncode != 0 and "Read-only" in written.stderr,
        }


def copied_and_imported(artifact: Path, folder: Path, digest: str) -> bool:
    """Whether skopeo's copy of an artifact is the artifact, and trimtab makes a run of it again."""
    subprocess.run(["skopeo", "copy", "--quiet", f"oci:{artifact}", f"oci:{folder / 'copy'}:1"], check=True, stdout=sys.stderr)
    found = import_package(folder / "copy", out=folder / "imported")
    return bool(found["digest"] == digest and found["lock"])


def pulled_by_a_peer(artifact: Path, folder: Path) -> bool:
    """Whether a ModelPack client of another project pulls the artifact from a registry, each file with the bytes that it had."""
    port = free_port()
    settings = folder / "registry.yml"
    storage = f"storage: {{filesystem: {{rootdirectory: {folder / 'registry'}}}}}"
    settings.write_text(f"version: 0.1\n{storage}\nhttp: {{addr: '127.0.0.1:{port}'}}\nlog: {{level: error}}\n")
    python = peer_python("modelpack", [PEER], make=True)
    name = f"127.0.0.1:{port}/demo/chat:1"
    log = (folder / "registry.log").open("wb")
    with log, kept(["docker-registry", "serve", str(settings)], stdout=log, stderr=log):
        copy = ["skopeo", "copy", "--quiet", "--retry-times", "5", "--dest-tls-verify=false", f"oci:{artifact}", f"docker://{name}"]
        subprocess.run(copy, check=True, stdout=sys.stderr)
        pull = [str(python), "-m", "modelpack_client", "--insecure", "pull", name, str(folder / "pulled")]
        subprocess.run(pull, check=True, stdout=subprocess.DEVNULL)
    layers = {layer.annotations["org.cncf.model.filepath"]: layer for layer in read_manifest(artifact).layers}
    pulled = {path.relative_to(folder / "pulled").as_posix(): path for path in (folder / "pulled").rglob("*") if path.is_file()}
    same = [pulled[name].read_bytes() == (artifact / "blobs/sha256" / layer.digest[7:]).read_bytes() for name, layer in layers.items()]
    return set(pulled) == set(layers) and all(same)


def measured(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    root = options.root or folder / "root.tar"
    figures: dict[str, Any] = {}
    if options.root is None:
        _, figures["root_s"] = timed(lambda: make_root(root))
    what = options.lock
    if what is None:
        what = folder / "lock" / "deploy.toml"
        what.parent.mkdir()
        write_demo_lock(what)
    is_certified = read_deploy_toml(what / "deploy.toml" if what.is_dir() else what).verdict == "pass"
    port = free_port()
    builds = []
    for name in ("image", "again"):
        given = {"base": str(root), "port": port, "allow_uncertified": not is_certified}
        builds.append(timed(lambda name=name, given=given: export(str(what), form="image", out=folder / name, **given)))  # type: ignore[misc]
        say(f"{name}: {builds[-1][0]['digest']} in {builds[-1][1]:.1f} s")
    figures["build_s"] = round(builds[0][1], 1)
    figures["equal_digests"] = builds[0][0]["digest"] == builds[1][0]["digest"]
    read = subprocess.run(["skopeo", "inspect", f"oci:{folder / 'image'}"], check=True, capture_output=True, text=True)
    figures["read_by_skopeo"] = json.loads(read.stdout)["Digest"] == builds[0][0]["digest"]
    manifest = read_manifest(folder / "image")
    figures["image_mb"] = round(sum(layer.size_bytes for layer in manifest.layers) / 1e6)
    figures["base_mb"] = round(manifest.layers[0].size_bytes / 1e6)
    figures["weights_mb"] = round(sum(layer.size_bytes for layer in manifest.layers[2:-1]) / 1e6)
    labels = read_json_blob(folder / "image", manifest.config)["config"]["Labels"]
    figures["engine"] = labels["trimtab.engine"]
    figures |= run_image(folder / "image", labels["org.opencontainers.image.title"], port, folder)
    artifact, figures["modelpack_s"] = timed(
        lambda: export(str(what), form="modelpack", out=folder / "artifact", allow_uncertified=not is_certified)
    )
    figures["imported"] = copied_and_imported(folder / "artifact", folder, artifact["digest"])
    if not options.quick:
        figures["peer_pulled"] = pulled_by_a_peer(folder / "artifact", folder)
    return {
        key: round(value, 1) if isinstance(value, float) and key.endswith("_s") and value > 10 else value for key, value in figures.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="no registry, and no client of another project")
    parser.add_argument("--lock", type=Path, default=None, help="a deploy.toml or the folder of a run; default the demo model as shipped")
    parser.add_argument("--root", type=Path, default=None, help="a root file system (.tar) that is there already")
    parser.add_argument("--keep", type=Path, default=None, help="leave all that was made in this folder")
    options = parser.parse_args()
    if missing := missing_tools():
        say(f"{', '.join(missing)} missing; on Debian: apt-get install --no-install-recommends {' '.join(missing)}")
        print(json.dumps({"name": "image", "figures": {"missing": missing}, "targets": TARGETS, "ok": None}))
        sys.exit(3)
    targets = {key: value for key, value in TARGETS.items() if key != "peer_pulled" or not options.quick}
    with tempfile.TemporaryDirectory(prefix="trimtab-image-") as scratch:
        folder = options.keep or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        figures = measured(options, folder.absolute())
    ok = all(figures[key] == value for key, value in targets.items())
    sizes = f"{figures['image_mb']} MB (base {figures['base_mb']}, weights {figures['weights_mb']})"
    times = f"cold start {figures['cold_start_s']} s, then {figures['warm_s']} s an answer"
    print(f"image {sizes}, built in {figures['build_s']} s; {times}, {figures['memory_mb']} MB in use")
    print(json.dumps({"name": "image", "figures": figures, "targets": targets, "ok": ok}))
    sys.exit(0 if ok else 1)


if __name__ == "__main__":
    main()
