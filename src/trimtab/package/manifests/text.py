"""How the files look: comments first, then YAML whose keys stand as they were built. Same content, same bytes."""

import re
import textwrap
from collections.abc import Iterable, Mapping
from typing import Any

from trimtab.core.errors import InputError, MissingError
from trimtab.core.release import Serving

WIDTH = 110
_LABEL = re.compile(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?")


def comment(notes: Iterable[str]) -> str:
    """Each note as lines that begin with `# `."""
    return "".join(
        textwrap.fill(note, WIDTH, initial_indent="# ", subsequent_indent="#   ", break_long_words=False, break_on_hyphens=False) + "\n"
        for note in notes
    )


def yaml_bytes(notes: Iterable[str], *documents: Mapping[str, Any]) -> bytes:
    """One YAML file. Raises MissingError if PyYAML is not installed."""
    return (comment(notes) + "---\n".join(_dump(document) for document in documents)).encode()


def yaml_text(document: Mapping[str, Any]) -> str:
    """One document as YAML, for a field that holds YAML as text. Raises MissingError if PyYAML is not installed."""
    return _dump(document)


def _dump(document: Mapping[str, Any]) -> str:
    try:
        import yaml
    except ImportError as error:
        raise MissingError("This format needs PyYAML, which is not installed.", "pip install 'trimtab[package]'") from error

    class Dumper(yaml.SafeDumper):  # type: ignore[misc]
        """Texts of several lines stand as they are, lists are indented, nothing is written by reference."""

        def increase_indent(self, flow: bool = False, indentless: bool = False) -> Any:
            return super().increase_indent(flow, False)

        def ignore_aliases(self, data: Any) -> bool:
            return True

    def text(dumper: Any, value: str) -> Any:
        return dumper.represent_scalar("tag:yaml.org,2002:str", value, style="|" if "\n" in value else None)

    Dumper.add_representer(str, text)
    return str(yaml.dump(dict(document), Dumper=Dumper, sort_keys=False, allow_unicode=True, width=10**6))


def checked_name(serving: Serving) -> str:
    """The name, if clusters take it. Raises InputError."""
    if not _LABEL.fullmatch(serving.name):
        raise InputError(
            f"{serving.name!r} is no name for a service: small letters, digits and -, 63 at most, a letter first; "
            "release it under such a name with `trimtab release create --name`."
        )
    return serving.name


def title(serving: Serving, what: str) -> str:
    """The first line of every file."""
    of = serving.release_id or f"{serving.name}, a lock that was not released"
    made = f"{serving.engine}, weights {serving.weights_sha256[:16]}"
    return f"{what} for {of}: {made}. Written by trimtab export; change the release, not this."


def image_of(serving: Serving) -> str:
    """The image that was named, else the one that `trimtab export --format image` makes here."""
    return serving.image or f"localhost/{serving.name}:{serving.release_id.rpartition('@')[2] or serving.weights_sha256[:12]}"


def image_notes(serving: Serving) -> list[str]:
    """What to do where no image was named."""
    if serving.image:
        return []
    return [
        f"Image: none was named; {image_of(serving)} is what `trimtab export --format image` makes. Push it to a registry that your "
        "machines reach, and write its reference, best with its digest, in its place."
    ]


def digest_note(serving: Serving) -> list[str]:
    """What to do where the image has a tag: two pods, or two clusters, could run different ones under it."""
    if not serving.image or "@sha256:" in serving.image:
        return []
    return [
        f"Image: {serving.image} is named by tag, which may move; write it with its digest, NAME@sha256:..., as `skopeo inspect` tells it."
    ]
