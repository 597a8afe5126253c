"""What a model is and what a token costs, from its header alone."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from trimtab.core.model import ModelCard, ModelHeader, Snapshot
from trimtab.describe.layout import Layer, Layout, state_layout, whole
from trimtab.describe.layout_gguf import gguf_layout
from trimtab.describe.layout_hf import hf_layout
from trimtab.describe.packing import packing_of
from trimtab.describe.tensors import PARTS, Placed, is_side_table, layer_traits, place_tensors


@dataclass(frozen=True, kw_only=True)
class LayerRow:
    """One line of the layer table: a run of equal layers (each with these numbers), or tensors outside the layers.

    name: `layers 0-29`, `embedding` ...; types: stored types with their counts, e.g. `Q4_1 x7, F32 x2`
    n_params, size_bytes: of ONE layer of the run
    """

    name: str
    n_layers: int
    kind: str
    n_params: int
    size_bytes: int
    types: str
    n_params_by_part: Mapping[str, int]


@dataclass(frozen=True, kw_only=True)
class CardRow:
    """One line of the card: label, value and a remark (may be empty)."""

    label: str
    value: str
    note: str = ""


def layout_of(header: ModelHeader) -> Layout:
    """The model's layers and sizes from its keys, its config and its tensors."""
    placed = place_tensors(header)
    return _layout(header, placed)


def _layout(header: ModelHeader, placed: Sequence[Placed]) -> Layout:
    metadata = header.metadata
    if header.format == "gguf":
        return gguf_layout(metadata, header.architecture, layer_traits(placed))
    if header.format == "openvino" and not whole(metadata, "num_hidden_layers", "n_layer"):
        state = metadata.get("openvino_state")
        return state_layout(state if isinstance(state, dict) else {}, whole(metadata, "max_position_embeddings"))
    return hf_layout(metadata, header.architecture, layer_traits(placed))


@dataclass(frozen=True, kw_only=True)
class _Cost:
    active_params: int
    decode_bytes: int
    flops: float


def _cost(placed: Sequence[Placed], layout: Layout) -> _Cost:
    """What one decoded token passes through. Layers beyond the model's own (extra prediction heads) and towers are not passed."""
    tied = not any(item.part == "output" for item in placed)
    n_layers = len(layout.layers)
    active = size = flops = 0.0
    for item in placed:
        if item.tower or (item.layer is not None and n_layers and item.layer >= n_layers):
            continue
        share = layout.routed_share if item.routed else 1.0
        matmul = item.is_matmul
        if item.part == "embedding" and item.n_params:
            rows = max(item.tensor.shape[0], 1) if item.tensor.shape else 1
            if tied and not is_side_table(item.tensor.name):
                matmul = True
            else:
                share = 1.0 / rows
        active += share * item.n_params
        size += share * item.tensor.size_bytes
        flops += share * 2.0 * item.n_params if matmul else 0.0
    return _Cost(active_params=round(active), decode_bytes=round(size), flops=flops)


def model_card(header: ModelHeader, snapshot: Snapshot) -> ModelCard:
    """The card of a model. Pure and fast; what the header does not tell is 0 or said in `notes`.

    FLOPs: 2 for each parameter of a matrix that a token passes (embedding look-up excluded, output matrix included).
    """
    placed = place_tensors(header)
    layout = _layout(header, placed)
    cost = _cost(placed, layout)
    by_part = dict.fromkeys(PARTS, 0)
    by_type: dict[str, int] = {}
    for item in placed:
        by_part[item.part] += item.n_params
        by_type[item.tensor.type_name] = by_type.get(item.tensor.type_name, 0) + item.tensor.size_bytes
    template = header.chat_template
    adapters, projector = _attached(header, snapshot)
    packing = packing_of(header.metadata) if header.format == "safetensors" else None
    return ModelCard(
        name=_name(header, snapshot),
        architecture=header.architecture,
        format=header.format,
        quantization=header.quantization,
        n_params=sum(by_part.values()),
        active_params=cost.active_params,
        n_params_by_part=by_part,
        bytes_by_type=dict(sorted(by_type.items(), key=lambda pair: -pair[1])),
        size_bytes=snapshot.size_bytes or sum(by_type.values()),
        decode_bytes_per_token=cost.decode_bytes,
        flops_per_token=cost.flops,
        attn_flops_per_token_per_context_token=float(sum(layer.attn_flops for layer in layout.layers)),
        kv_layers=layout.kv_layers(),
        n_layers=len(layout.layers),
        hidden_size=layout.hidden_size or _width(placed),
        context_tokens=layout.context_tokens,
        vocab_size=layout.vocab_size or _rows(placed),
        licence=_licence(header.metadata),
        chat_template_sha256=hashlib.sha256(template.encode("utf-8", errors="replace")).hexdigest() if template else "",
        adapters=adapters,
        projector=projector,
        digests={file.name: file.sha256 for file in snapshot.files},
        notes=_notes(header, layout, placed),
        packing=packing.text if packing else "",
        packing_exceptions=packing.exceptions if packing else "",
    )


def _name(header: ModelHeader, snapshot: Snapshot) -> str:
    for key in ("general.name", "general.basename", "_name_or_path"):
        value = header.metadata.get(key)
        if isinstance(value, str) and _printable(value):
            return _printable(value)
    return snapshot.path.stem if header.format == "gguf" else snapshot.root.name


def _printable(text: str) -> str:
    """A name from an untrusted header, fit for a terminal: one short line without control characters."""
    return "".join(letter for letter in text[:200] if letter.isprintable()).strip()


def _licence(metadata: Mapping[str, Any]) -> str:
    for key in ("general.license", "licence", "license"):
        value = metadata.get(key)
        if isinstance(value, str) and value:
            named = metadata.get("general.license.name")
            return _printable(named if value == "other" and isinstance(named, str) and named else value)
    return ""


def _tables(placed: Sequence[Placed]) -> list[Placed]:
    held = [item for item in placed if item.part == "embedding" and item.n_params and len(item.tensor.shape) >= 2]
    return [item for item in held if not is_side_table(item.tensor.name)]


def _rows(placed: Sequence[Placed]) -> int:
    return max((item.tensor.shape[0] for item in _tables(placed)), default=0)


def _width(placed: Sequence[Placed]) -> int:
    return max((item.n_params // item.tensor.shape[0] for item in _tables(placed)), default=0)


def _attached(header: ModelHeader, snapshot: Snapshot) -> tuple[tuple[str, ...], str]:
    """(adapters, projector) that belong to the model, or that the file itself is."""
    first, rest = snapshot.files[0].name if snapshot.files else "", [file.name for file in snapshot.files[1:]]
    if header.metadata.get("general.type") == "adapter" or header.architecture == "adapter":
        return (first,), ""
    if header.architecture == "clip" or header.metadata.get("general.type") == "mmproj":
        return (), first
    adapters = tuple(name for name in ("adapter_config.json",) if name in rest)
    projectors = [name for name in rest if "mmproj" in name.lower()]
    return adapters, projectors[0] if projectors else ""


def _notes(header: ModelHeader, layout: Layout, placed: Sequence[Placed]) -> tuple[str, ...]:
    notes = list(layout.notes)
    metadata = header.metadata
    if metadata.get("general.type") == "adapter" or header.architecture == "adapter":
        rank = whole(metadata.get("adapter_config", {}), "r") if isinstance(metadata.get("adapter_config"), dict) else 0
        notes.append(f"This is a LoRA adapter{f' of rank {rank}' if rank else ''}, not a model: its base model is needed to run it.")
    elif header.architecture == "clip":
        notes.append("This is a projector for images or sound, not a model: the language model it belongs to is needed to run it.")
    elif not layout.layers:
        notes.append("The header does not tell the layers; sizes per token are from tensors alone.")
    if any(item.tower for item in placed):
        notes.append("Vision or audio encoders are counted in `other` and not in the cost of a text token.")
    if any(item.layer is not None and layout.layers and item.layer >= len(layout.layers) for item in placed):
        notes.append("Layers for predicting several tokens at once are stored but not counted in the cost of a token.")
    if any(layer.kind == "sliding" for layer in layout.layers):
        notes.append("Sliding layers stop growing at their window; costs per token of context hold until then.")
    if not any(item.part == "output" for item in placed) and any(item.part == "embedding" for item in placed):
        notes.append("The embedding table is also the output matrix, so each token reads all of it.")
    named = [key.removeprefix("tokenizer.chat_template.") for key in metadata if key.startswith("tokenizer.chat_template.")]
    if named:
        notes.append(f"It holds more chat templates, which are not used unless asked for: {_printable(', '.join(named))}.")
    if "auto_map" in metadata:
        notes.append("The checkpoint asks for its own Python code; trimtab never runs it.")
    if header.format == "openvino" and not any(item.layer is not None for item in placed):
        notes.append("The graph's weights have no names, so they are not told apart by layer and part.")
    return tuple(notes)


def _types(tensors: Sequence[Placed]) -> str:
    counts: dict[str, int] = {}
    for item in tensors:
        counts[item.tensor.type_name] = counts.get(item.tensor.type_name, 0) + 1
    return ", ".join(f"{name} x{count}" for name, count in sorted(counts.items(), key=lambda pair: (-pair[1], pair[0])))


def _row(name: str, kind: str, tensors: Sequence[Placed]) -> LayerRow:
    by_part: dict[str, int] = {}
    for item in tensors:
        if item.n_params:
            by_part[item.part] = by_part.get(item.part, 0) + item.n_params
    return LayerRow(
        name=name,
        n_layers=1,
        kind=kind,
        n_params=sum(by_part.values()),
        size_bytes=sum(item.tensor.size_bytes for item in tensors),
        types=_types(tensors),
        n_params_by_part=by_part,
    )


def layer_rows(header: ModelHeader, *, collapse: bool = True) -> tuple[LayerRow, ...]:
    """The layer table: embedding, each layer (equal neighbours as one run if `collapse`), then what stands outside the layers."""
    placed = place_tensors(header)
    layout = _layout(header, placed)
    outside: dict[str, list[Placed]] = {}
    inside: dict[int, list[Placed]] = {}
    for item in placed:
        if item.layer is None:
            outside.setdefault("vision or audio" if item.tower else item.part, []).append(item)
        else:
            inside.setdefault(item.layer, []).append(item)
    use = "look-up" if "output" in outside else "look-up and output matrix"
    rows = [_row("embedding", use, outside.pop("embedding"))] if "embedding" in outside else []
    runs: list[tuple[int, LayerRow]] = []
    for index in sorted(inside):
        row = _row("", _kind(layout, index, inside[index]), inside[index])
        if collapse and runs and _same(runs[-1][1], row) and runs[-1][0] + runs[-1][1].n_layers == index:
            first, last = runs[-1]
            runs[-1] = (first, _renamed(last, "", last.n_layers + 1))
        else:
            runs.append((index, row))
    rows += [
        _renamed(row, f"layer {first}" if row.n_layers == 1 else f"layers {first}-{first + row.n_layers - 1}", row.n_layers)
        for first, row in runs
    ]
    return (*rows, *(_row(part, "outside the layers", items) for part, items in outside.items()))


def _renamed(row: LayerRow, name: str, n_layers: int) -> LayerRow:
    return LayerRow(
        name=name,
        n_layers=n_layers,
        kind=row.kind,
        n_params=row.n_params,
        size_bytes=row.size_bytes,
        types=row.types,
        n_params_by_part=row.n_params_by_part,
    )


def _same(a: LayerRow, b: LayerRow) -> bool:
    return (a.kind, a.n_params, a.size_bytes, a.types) == (b.kind, b.n_params, b.size_bytes, b.types)


def _kind(layout: Layout, index: int, tensors: Sequence[Placed]) -> str:
    layer = layout.layers[index] if index < len(layout.layers) else Layer()
    parts = {item.part for item in tensors}
    told = [layer.title] if layer.title else []
    if "experts" in parts:
        told.append(f"{layout.n_experts_used} of {layout.n_experts} experts" if layout.n_experts else "experts")
    elif "mlp" in parts:
        told.append("mlp")
    return " + ".join(told) or "other"


def _count(number: float) -> str:
    for size, unit in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.3g}{unit}" if number < 100 * size else f"{number / size:.1f}{unit}"
    return f"{number:.0f}"


def _bytes(number: float) -> str:
    for size, unit in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if number >= size:
            return f"{number / size:.1f} {unit}"
    return f"{number:.0f} B"


def _or_unknown(value: int | str) -> str:
    return f"{value:,}" if isinstance(value, int) and value else str(value or "not told")


def card_rows(card: ModelCard) -> tuple[CardRow, ...]:
    """The card as lines of text, for a terminal or a page. Decimal units (1 MB = 1e6 bytes)."""
    parts = ", ".join(f"{part} {_count(count)}" for part, count in card.n_params_by_part.items() if count)
    types = ", ".join(f"{name} {_bytes(size)}" for name, size in card.bytes_by_type.items())
    rows = [
        CardRow(label="Name", value=card.name),
        CardRow(label="Architecture", value=card.architecture, note=f"{card.n_layers} layers, width {card.hidden_size:,}"),
        CardRow(label="Format", value=card.format, note="" if card.quantization in ("none", card.format) else card.quantization),
        *([CardRow(label="Quantised", value=card.packing, note=card.packing_exceptions)] if card.packing else []),
        CardRow(label="Licence", value=_or_unknown(card.licence)),
        CardRow(label="Parameters", value=_count(card.n_params), note=parts),
        CardRow(label="Active a token", value=_count(card.active_params)),
        CardRow(label="Size", value=_bytes(card.size_bytes), note=types),
        CardRow(label="Read per decoded token", value=_bytes(card.decode_bytes_per_token), note="weights, one sequence"),
        CardRow(
            label="FLOPs a token",
            value=_count(card.flops_per_token),
            note=f"and {_count(card.attn_flops_per_token_per_context_token)} for each token of context",
        ),
        CardRow(label="Context", value=f"{_or_unknown(card.context_tokens)} tokens" if card.context_tokens else "not told"),
        CardRow(label="Vocabulary", value=f"{_or_unknown(card.vocab_size)} tokens" if card.vocab_size else "not told"),
    ]
    for layers in card.kv_layers:
        size = 2.0 * (layers.state_values if layers.kind == "recurrent" else layers.values_per_token) * layers.n_layers
        each = "a sequence, fixed" if layers.kind == "recurrent" else "a token"
        window = f", at most {layers.window_tokens:,} tokens" if layers.window_tokens else ""
        rows.append(CardRow(label=f"Cache, {layers.kind}", value=f"{_bytes(size)} {each}", note=f"{layers.n_layers} layers at F16{window}"))
    if card.context_tokens:
        rows.append(CardRow(label="Cache at full context", value=_bytes(card.kv_bytes(card.context_tokens)), note="one sequence at F16"))
    if card.adapters:
        rows.append(CardRow(label="Adapters", value=", ".join(card.adapters)))
    if card.projector:
        rows.append(CardRow(label="Projector", value=card.projector))
    rows.append(
        CardRow(
            label="Chat template",
            value=card.chat_template_sha256[:16] or "none",
            note="sha256, first 16 digits" if card.chat_template_sha256 else "",
        )
    )
    rows += [CardRow(label="File", value=name, note=f"sha256 {digest[:16]}") for name, digest in list(card.digests.items())[:8]]
    rows += [CardRow(label="Note", value=note) for note in card.notes]
    return tuple(rows)
