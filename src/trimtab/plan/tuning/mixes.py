"""Mixes of types as recipes, and what an allocation chooses from: groups, the types each can have, their losses, times and bytes."""

from collections.abc import Mapping, Sequence

from trimtab.core.deployment import Recipe
from trimtab.core.files import digest_of
from trimtab.plan.tuning.allocate import Column, Option
from trimtab.plan.tuning.tensor_groups import TensorGroup

KEEP = "keep"
"""The group's weights stay as the file has them."""
EXACT_IN_OPENVINO = ("gguf-exact", "gguf")
"""Modes of OpenVINO recipes: with zero points of Q4_1 mended, and for files without any."""

Blocks = Mapping[str, tuple[int, int]]
"""By type: weights and bytes of a block."""


def possible_types(group: TensorGroup, types: Sequence[str], blocks: Blocks) -> tuple[str, ...]:
    """`keep`, and of `types` those whose blocks divide the group's rows and that are not what it has already."""
    fitting = [name for name in types if all(length % blocks[name][0] == 0 for length in group.row_lengths)]
    return (KEEP, *(name for name in fitting if group.stored_types != {name}))


def mix_recipe(engine: str, choice: Mapping[str, str], groups: Sequence[TensorGroup], blocks: Blocks) -> Recipe:
    """The recipe that gives each group its chosen type (group name -> type; absent or `keep` = as the file has it).

    Equal choices give equal recipes, name included.
    """
    tensors = {group.pattern: choice[group.name] for group in groups if choice.get(group.name, KEEP) != KEEP}
    n_bytes = sum(group_bytes(group, choice.get(group.name, KEEP), blocks) for group in groups)
    bits = 8 * n_bytes / max(sum(group.n_params for group in groups), 1)
    title = "mixed: " + (", ".join(f"{name} {kind}" for name, kind in sorted(choice.items()) if kind != KEEP) or "all as shipped")
    if engine == "openvino":
        kept = {tensor.type_name for group in groups if group.pattern not in tensors for tensor in group.tensors}
        parameters = {"mode": EXACT_IN_OPENVINO[0 if "Q4_1" in kept | set(tensors.values()) else 1], "tensors": tensors}
    else:
        parameters = {"type": KEEP, "tensors": tensors} if tensors else {"type": "as-shipped"}
    name = f"{engine}-mixed-{digest_of(parameters)[:8]}"
    family = "openvino" if engine == "openvino" else "gguf"
    return Recipe(name=name, family=family, engine=engine, title=title, parameters=parameters, bits_per_weight=round(bits, 2))


def is_plain(choice: Mapping[str, str], groups: Sequence[TensorGroup]) -> bool:
    """Whether a choice is no mix: all layers have one type and the other matrices stay, as recipes of one type have it."""
    in_layers = {choice.get(group.name, KEEP) for group in groups if group.place == "blocks"}
    return len(in_layers) <= 1 and all(choice.get(group.name, KEEP) == KEEP for group in groups if group.place != "blocks")


def group_bytes(group: TensorGroup, type_name: str, blocks: Blocks) -> int:
    """Bytes of a group's weights in a type."""
    if type_name == KEEP:
        return sum(tensor.size_bytes for tensor in group.tensors)
    values, size_bytes = blocks[type_name]
    return group.n_params // values * size_bytes


def columns_of(choice: Mapping[str, str], groups: Sequence[TensorGroup], places: Sequence[str]) -> dict[Column, float]:
    """Millions of weights by place and actual type, of the groups in `places`."""
    found: dict[Column, float] = {}
    for group in groups:
        for tensor in group.tensors if group.place in places else ():
            type_name = choice.get(group.name, KEEP)
            column = (group.place, tensor.type_name if type_name == KEEP else type_name)
            found[column] = found.get(column, 0.0) + tensor.n_params / 1e6
    return found


PREFILL_PLACES, DECODE_PLACES = ("blocks",), ("blocks", "head")
"""What is multiplied for each token: of a prompt, only the last one goes through the output matrix."""


def timing_choices(groups: Sequence[TensorGroup], possible: Mapping[str, Sequence[str]]) -> dict[str, dict[str, str]]:
    """Builds that tell the rates apart, by a name: each type in all layers that can have it, and each type in the output matrix alone."""
    found: dict[str, dict[str, str]] = {KEEP: {}}
    for place in DECODE_PLACES:
        own = [group for group in groups if group.place == place]
        for type_name in dict.fromkeys(kind for group in own for kind in possible[group.name] if kind != KEEP):
            found[f"{place} {type_name}"] = {group.name: type_name for group in own if type_name in possible[group.name]}
    return found


def mix_options(
    groups: Sequence[TensorGroup],
    losses: Mapping[tuple[str, str], float],
    prefill_rates: Mapping[Column, float],
    decode_rates: Mapping[Column, float],
    blocks: Blocks,
) -> dict[str, list[Option]]:
    """What each group may have: `keep`, and every type whose loss was measured and whose rate is known.

    losses: (group, type) -> measured rise of the divergence; a negative one is noise and counts as none
    """
    options: dict[str, list[Option]] = {}
    for group in groups:
        own = []
        for type_name in (KEEP, *(kind for name, kind in losses if name == group.name)):
            prefill = columns_of({group.name: type_name}, [group], PREFILL_PLACES)
            decode = columns_of({group.name: type_name}, [group], DECODE_PLACES)
            if prefill.keys() <= prefill_rates.keys() and decode.keys() <= decode_rates.keys():
                own.append(
                    Option(
                        type_name=type_name,
                        kl_nats=max(losses.get((group.name, type_name), 0.0), 0.0),
                        prefill_ms=sum(prefill_rates[column] * n for column, n in prefill.items()),
                        decode_ms=sum(decode_rates[column] * n for column, n in decode.items()),
                        size_bytes=group_bytes(group, type_name, blocks),
                    )
                )
        options[group.name] = own
    return options
