"""A chat template applied for an engine: the rendering child's refusals become the engine's."""

from collections.abc import Mapping, Sequence
from typing import Any

from trimtab.core.errors import EngineRefused, InputError
from trimtab.describe.template import render_chat


def rendered(
    source: str, template: str, messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]], *, bos: str, eos: str
) -> str:
    """The template of `source` with the generation prompt. Raises EngineRefused if there is none or it fails."""
    if not template:
        raise EngineRefused(f"{source} has no chat template.")
    try:
        return render_chat(template, messages, tools=tools, bos=bos, eos=eos)
    except InputError as error:
        raise EngineRefused(f"The chat template of {source} cannot render these messages: {error}") from error
