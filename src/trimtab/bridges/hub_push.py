"""The Hugging Face Hub: weights, card and evidence as one commit of a model repository.

`to` is `ORG/NAME`. The library's own settings hold: HF_TOKEN, HF_ENDPOINT.
"""

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from trimtab.core.errors import InputError, MissingError
from trimtab.flows.push import Registry

CARD = "README.md"


def push(folder: Path, *, to: str, name: str, version: str, aliases: Sequence[str] = (), endpoint: str | None = None) -> dict[str, str]:
    """Upload a folder with a card to a repository, which is made, and is private, if it is not there; mark the commit `v3`.

    A repository that exists keeps who may see it. A tag that exists is not moved: a release never changes.
    Raises InputError (no card, an alias, what the hub says), MissingError.
    """
    if aliases:
        raise InputError(f"The hub has no aliases ({', '.join(aliases)}); leave --alias out, a release is marked by a tag there.")
    if not (folder / CARD).is_file():
        raise InputError(f"{folder} has no {CARD}; a model on the hub needs its card, which a release brings.")
    title = f"{name}@{version}" if version else name
    with _sentences(to):
        from huggingface_hub import HfApi

        api = HfApi(endpoint=endpoint)
        url = api.create_repo(to, private=True, exist_ok=True)
        commit = api.upload_folder(repo_id=to, folder_path=folder, commit_message=f"{title}, by trimtab")
        if version:
            _tag(api, to, f"v{version}", commit.oid)
        return {"url": str(url), "commit": str(commit.oid), "tag": f"v{version}" if version else ""}


def _tag(api: Any, to: str, tag: str, commit: str) -> None:
    """Mark the commit, unless the same release was pushed before."""
    from huggingface_hub.errors import HfHubHTTPError

    try:
        api.create_tag(to, tag=tag, revision=commit)
    except HfHubHTTPError as error:
        if error.response is None or error.response.status_code != 409:
            raise
        raise InputError(
            f"{to} has a tag {tag} already, which stays where it is; the commit {commit[:12]} was made. A release is pushed once."
        ) from error


@contextlib.contextmanager
def _sentences(to: str) -> Iterator[None]:
    """What the library raises, as one sentence."""
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalTokenNotFoundError, OfflineModeIsEnabled

    try:
        yield
    except HFValidationError as error:
        raise InputError(f"{to!r} is no repository: write ORG/NAME ({str(error).splitlines()[0]}).") from error
    except LocalTokenNotFoundError as error:
        raise MissingError("The hub wants to know who you are.", "set HF_TOKEN, or run `hf auth login`") from error
    except HfHubHTTPError as error:
        status = error.response.status_code if error.response is not None else "no answer"
        raise InputError(f"The hub refused {to} ({status}): {str(error).strip().splitlines()[-1]}") from error
    except OfflineModeIsEnabled as error:
        raise MissingError("The hub is not to be asked (HF_HUB_OFFLINE).", "unset it") from error
    except ValueError as error:
        raise InputError(f"The hub does not take this folder for {to}: {str(error).strip().splitlines()[0]}") from error
    except Exception as error:
        # The library's HTTP client has other names in other versions: httpx, httpx2.
        if not type(error).__module__.startswith("httpx"):
            raise
        raise MissingError(f"The hub cannot be reached ({type(error).__name__}).", "try again with a network") from error


REGISTRY = Registry(push=push, takes_weights=True, takes_aliases=False)
