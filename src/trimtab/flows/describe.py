"""What a model is, from its headers alone; its chat template rendered, checked, and compared with others' rendering of it."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trimtab.core.deployment import Settings
from trimtab.core.errors import MissingError, TrimtabError
from trimtab.core.files import to_plain, write_atomic
from trimtab.core.model import ModelCard, ModelHeader, Snapshot
from trimtab.describe.card import LayerRow, layer_rows, model_card
from trimtab.describe.page import card_page
from trimtab.describe.template import (
    GOLDEN,
    Rendering,
    TemplateDifference,
    TemplateReport,
    diff_renderings,
    diff_templates,
    inspect_template,
    render_golden,
)
from trimtab.engines.client import WorkerClient
from trimtab.engines.registry import engine_class, engine_names
from trimtab.flows.events import Event, OnEvent, ignore
from trimtab.record.home import cache_dir
from trimtab.sources.gguf import read_gguf_array
from trimtab.sources.open import open_source, read_header

SCHEMA = "trimtab.description/1"


@dataclass(frozen=True, kw_only=True)
class EngineRendering:
    """Where an engine writes a golden conversation otherwise than the sandboxed template; `why`: it could not be asked."""

    differences: tuple[TemplateDifference, ...] = ()
    why: str = ""


@dataclass(frozen=True, kw_only=True)
class Description:
    """All that is known of a model without running it.

    base_differences: None = no base was given to compare the template with
    engines: by engine name, only where engines were asked
    """

    snapshot: Snapshot
    header: ModelHeader
    card: ModelCard
    layers: tuple[LayerRow, ...]
    template: TemplateReport
    base: str = ""
    base_differences: tuple[TemplateDifference, ...] | None = None
    engines: Mapping[str, EngineRendering] = field(default_factory=dict)

    def plain(self) -> dict[str, Any]:
        """As JSON types, without the tensor table."""
        kept = ("snapshot", "card", "layers", "template", "base", "base_differences", "engines")
        return {"schema": SCHEMA, **{name: to_plain(getattr(self, name)) for name in kept}}


def describe(spec: str, *, base: str = "", ask_engines: bool = False, offline: bool = False, on_event: OnEvent = ignore) -> Description:
    """Describe a model: milliseconds for a local file whose digest is known.

    base: the model it was made from; its chat template is compared
    ask_engines: open the model in each engine at hand and compare how it renders the template (seconds)
    Raises InputError, MissingError.
    """
    caches = cache_dir()

    def fetch(source: str) -> tuple[Snapshot, ModelHeader]:
        snapshot = open_source(source, cache_dir=caches, offline=offline, progress=lambda line: on_event(Event(phase="open", message=line)))
        return snapshot, read_header(snapshot)

    snapshot, header = fetch(spec)
    bos, eos = special_texts(header, snapshot)
    template = inspect_template(header.chat_template, bos=bos, eos=eos)
    base_differences = None
    if base:
        base_differences = diff_templates(header.chat_template, fetch(base)[1].chat_template, bos=bos, eos=eos)
    engines = {}
    if ask_engines and header.chat_template:
        expected = render_golden(header.chat_template, bos=bos, eos=eos, fixed_date=False)
        for name in engine_names():
            on_event(Event(phase="engines", message=f"{name} renders {len(GOLDEN)} conversations"))
            engines[name] = asyncio.run(_ask_engine(name, snapshot, header, expected))
    return Description(
        snapshot=snapshot,
        header=header,
        card=model_card(header, snapshot),
        layers=layer_rows(header),
        template=template,
        base=base,
        base_differences=base_differences,
        engines=engines,
    )


def write_page(found: Description, path: Path) -> None:
    """The same as one self-contained page. Raises OSError."""
    write_atomic(path, card_page(found.card, found.header, found.template))


def special_texts(header: ModelHeader, snapshot: Snapshot) -> tuple[str, str]:
    """Texts of the tokens that begin a text and end a turn, as a template may write them; empty where the model does not tell."""
    if header.format == "gguf":
        ids = [header.metadata.get(f"tokenizer.ggml.{name}_token_id") for name in ("bos", "eos")]
        if not any(isinstance(number, int) for number in ids):
            return "", ""
        tokens = read_gguf_array(snapshot.path, "tokenizer.ggml.tokens")
        begin, end = (str(tokens[number]) if isinstance(number, int) and 0 <= number < len(tokens) else "" for number in ids)
        return begin, end
    config = header.metadata.get("tokenizer_config")
    begin, end = (_token_text(config.get(name)) if isinstance(config, Mapping) else "" for name in ("bos_token", "eos_token"))
    return begin, end


def _token_text(value: Any) -> str:
    """tokenizer_config.json names a token by its text or by a mapping that holds it."""
    return str(value.get("content", "")) if isinstance(value, Mapping) else value if isinstance(value, str) else ""


async def _ask_engine(name: str, snapshot: Snapshot, header: ModelHeader, expected: tuple[Rendering, ...]) -> EngineRendering:
    """How one engine renders the golden conversations, in a process of its own. Reasons, not errors."""
    try:
        kind = engine_class(name)
        kind.build()
        refusal = kind.refuses(snapshot, header, Settings())
        if refusal:
            return EngineRendering(why=refusal)
        client = await WorkerClient.start(name, snapshot, Settings(), purpose="score")
    except MissingError as error:
        return EngineRendering(why=str(error))
    except TrimtabError as error:
        return EngineRendering(why=f"It could not open the model: {error}")
    renderings = []
    try:
        for item in GOLDEN:
            try:
                text = await client.render(item.messages, item.tools)
                renderings.append(Rendering(conversation=item.name, text=text))
            except TrimtabError as error:
                renderings.append(Rendering(conversation=item.name, text="", error=str(error)))
    finally:
        await client.close()
    return EngineRendering(differences=_unless_both_refuse(expected, renderings))


def _unless_both_refuse(expected: tuple[Rendering, ...], given: list[Rendering]) -> tuple[TemplateDifference, ...]:
    """Two refusals of one conversation are the same behaviour, however they are worded."""
    refused = {item.conversation for item in expected if item.error} & {item.conversation for item in given if item.error}
    return tuple(item for item in diff_renderings(expected, given) if item.conversation not in refused)
