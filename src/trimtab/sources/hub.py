"""`hf:org/name@revision[:quant]` through huggingface_hub: its cache is used in place and HF_HUB_OFFLINE is honoured."""

import fnmatch
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from trimtab.core.errors import InputError, MissingError
from trimtab.sources import safetensors
from trimtab.sources.gguf import is_later_part
from trimtab.sources.local import LocalModel, find_model
from trimtab.sources.refusals import PICKLED_SUFFIXES

_SPEC = re.compile(r"^hf:(?P<repo>[\w.-]{1,96}(?:/[\w.-]{1,96})?)(?:@(?P<revision>[\w./-]{1,128}))?(?::(?P<quant>[\w.-]{1,64}))?$")
_OPENVINO = ("openvino_*.xml", "openvino_*.bin", "openvino_config.json")


@dataclass(frozen=True, kw_only=True)
class HubSpec:
    """A parsed `hf:` spec. quant: which GGUF file of the repository, empty = its safetensors or its only GGUF."""

    repo: str
    revision: str
    quant: str


def parse_hub_spec(spec: str) -> HubSpec:
    """Raises InputError if the spec is not `hf:org/name@revision[:quant]`; the revision defaults to `main`."""
    match = _SPEC.match(spec)
    if match is None or ".." in spec:
        raise InputError(f"{spec!r} is not a Hugging Face model; write hf:org/name@revision or hf:org/name@revision:Q4_K_M.")
    return HubSpec(repo=match["repo"], revision=match["revision"] or "main", quant=match["quant"] or "")


def choose_files(names: list[str], spec: HubSpec) -> list[str]:
    """Which files of a repository make the model that was asked for, weights first. Raises InputError, naming what there is."""
    ggufs = sorted(name for name in names if name.lower().endswith(".gguf") and "mmproj" not in name.lower())
    models = [name for name in ggufs if not is_later_part(PurePosixPath(name).name)]
    top = [name for name in names if "/" not in name]
    has_safetensors = any(name.endswith(".safetensors") for name in top)
    if spec.quant:
        wanted = re.compile(rf"(?:^|[-._/]){re.escape(spec.quant)}(?=$|[-._/])", re.IGNORECASE)
        models = [name for name in models if wanted.search(name.rsplit(".", 1)[0])]
    elif has_safetensors or "openvino_model.xml" in top:
        patterns = ("*.safetensors", *safetensors.COMPANIONS, "README.md") if has_safetensors else (*_OPENVINO, *safetensors.COMPANIONS)
        return [name for name in top if any(fnmatch.fnmatch(name, pattern) for pattern in patterns)]
    if len(models) == 1:
        first = models[0]
        stem = re.sub(r"-00001-of-\d{5}\.gguf$", "", first)
        return [
            first,
            *(name for name in ggufs if name != first and is_later_part(PurePosixPath(name).name) and name.startswith(stem + "-")),
        ]
    if ggufs:
        choices = ", ".join(PurePosixPath(name).name for name in ggufs[:6])
        told = "several GGUF files fit" if models else f"no GGUF file is named {spec.quant!r}"
        raise InputError(f"hf:{spec.repo}@{spec.revision}: {told}; add :quant for one of {choices}{', ...' if len(ggufs) > 6 else ''}.")
    if any(PurePosixPath(name).suffix in PICKLED_SUFFIXES for name in names):
        raise InputError(
            f"hf:{spec.repo}@{spec.revision} has only pickled weights, which can run code when loaded; use a revision with .safetensors."
        )
    raise InputError(f"hf:{spec.repo}@{spec.revision} holds no .safetensors and no .gguf weights.")


def fetch_hub(spec: str, *, offline: bool, progress: Callable[[str], None] | None) -> tuple[LocalModel, str]:
    """(model, commit) of a Hugging Face spec, downloaded into the Hugging Face cache unless it is there.

    Raises InputError for a wrong spec, repository or revision, MissingError if the network is needed and not there.
    """
    import huggingface_hub
    from huggingface_hub import constants

    parsed = parse_hub_spec(spec)
    if offline or constants.HF_HUB_OFFLINE:
        return _from_cache(parsed)
    try:
        info = huggingface_hub.HfApi().model_info(parsed.repo, revision=parsed.revision, timeout=30)
        commit = str(info.sha)
        names = choose_files([item.rfilename for item in info.siblings or []], parsed)
        if progress is not None:
            progress(f"Fetching {len(names)} files of {parsed.repo} at {commit[:12]}")
        # Names are matched as patterns there, so the characters that mean something in a pattern are escaped.
        patterns = [re.sub(r"([\[*?])", r"[\1]", name) for name in names]
        folder = Path(huggingface_hub.snapshot_download(parsed.repo, revision=commit, allow_patterns=patterns))
    except InputError:
        raise
    except Exception as error:
        raise _explained(error, parsed) from error
    return _chosen(folder, names), commit


def fetch_config(spec: HubSpec, *, offline: bool) -> Path | None:
    """config.json of a repository alone, from the cache or fetched; None if the repository has none. Raises InputError, MissingError."""
    import huggingface_hub
    from huggingface_hub import errors

    try:
        return Path(huggingface_hub.hf_hub_download(spec.repo, "config.json", revision=spec.revision, local_files_only=offline))
    except errors.LocalEntryNotFoundError as error:
        if not offline:
            raise _explained(error, spec) from error
        return None
    except errors.EntryNotFoundError:
        return None
    except Exception as error:
        raise _explained(error, spec) from error


def _from_cache(spec: HubSpec) -> tuple[LocalModel, str]:
    """The model from the Hugging Face cache alone."""
    import huggingface_hub

    try:
        folder = Path(huggingface_hub.snapshot_download(spec.repo, revision=spec.revision, local_files_only=True))
    except Exception as error:
        raise MissingError(
            f"{spec.repo}@{spec.revision} is not in the Hugging Face cache and trimtab is offline.",
            f"run once online, or: hf download {spec.repo} --revision {spec.revision}",
        ) from error
    names = sorted(item.relative_to(folder).as_posix() for item in folder.rglob("*") if item.is_file())
    return _chosen(folder, choose_files(names, spec)), folder.name


def _chosen(folder: Path, names: list[str]) -> LocalModel:
    first = names[0]
    if first.lower().endswith(".gguf"):
        return find_model(folder / first)
    return find_model(folder / ("openvino_model.xml" if "openvino_model.xml" in names else "config.json"))


def _explained(error: Exception, spec: HubSpec) -> InputError | MissingError:
    """One sentence for what huggingface_hub raised."""
    from huggingface_hub import errors

    where = f"hf:{spec.repo}@{spec.revision}"
    kinds: list[tuple[Any, InputError | MissingError]] = [
        (errors.GatedRepoError, MissingError(f"{where} is gated.", "accept its terms on its page, then run: hf auth login")),
        (errors.RevisionNotFoundError, InputError(f"{where}: the repository has no revision {spec.revision!r}.")),
        (errors.RepositoryNotFoundError, InputError(f"{where} does not exist, or is private: check the name, or run: hf auth login.")),
    ]
    for kind, told in kinds:
        if isinstance(error, kind):
            return told
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
    return MissingError(
        f"{where} could not be fetched ({reason}).", "check the network and disk space, or use --offline with what is in the cache"
    )
