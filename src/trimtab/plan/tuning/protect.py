"""Which groups of weights to keep at high precision so that a gate is met with the fewest bytes more.

Of each group it is measured how much less the gate is off when this group alone keeps its precision and all others are compressed. Small
changes of different weights shift an item's outcome about additively (first order), so a gate's remaining loss is taken to be its whole
loss times the share of all gains that is given up. Which groups to keep is then the knapsack of `allocate`, with that share as the
loss, and with bytes in the place of time: reading weights is what decoding at batch 1 waits for.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from trimtab.plan.tuning.allocate import Option, allocate

TARGET_MARGINS = 0.5
"""What a gate may still be off, as a share of its margin; where it is off by less than twice that, half of what it is."""
COMPRESSED = "compressed"


@dataclass(frozen=True, kw_only=True)
class Sensitivity:
    """One group of weights kept at `type_name` while all others are compressed.

    gains: gate -> by how many margins it is less off (negative = more); extra_bytes: what keeping the group costs
    """

    group: str
    type_name: str
    extra_bytes: int
    gains: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class Protection:
    """Groups to keep, by name, with their types. shares: gate -> share of its loss that is predicted to stay; extra_bytes: in all."""

    groups: Mapping[str, str]
    shares: Mapping[str, float]
    extra_bytes: int


def protect(found: Sequence[Sensitivity], losses: Mapping[str, float]) -> Protection | None:
    """The cheapest groups to keep so that no gate is predicted to be off by more than its target; None if no group matters to some gate.

    losses: gate -> by how many margins it is off with everything compressed, above 0 for those that are to be mended
    """
    gains = {gate: [max(one.gains.get(gate, 0.0), 0.0) for one in found] for gate, loss in losses.items() if loss > 0.0}
    if not gains or not all(sum(own) > 0.0 for own in gains.values()):
        return None
    given_up = {gate: [gain / sum(own) for gain in own] for gate, own in gains.items()}
    allowed = {gate: min(TARGET_MARGINS / losses[gate], 0.5) for gate in gains}
    whole_bytes = max(sum(abs(one.extra_bytes) for one in found), 1)
    options = {}
    for place, one in enumerate(found):
        cost = max(given_up[gate][place] / allowed[gate] for gate in gains)  # the sum bounds what every gate gives up
        options[one.group] = [
            Option(type_name=COMPRESSED, kl_nats=cost, prefill_ms=0.0, decode_ms=0.0, size_bytes=0),
            Option(
                type_name=one.type_name, kl_nats=0.0, prefill_ms=0.0, decode_ms=one.extra_bytes / whole_bytes, size_bytes=one.extra_bytes
            ),
        ]
    mix = allocate(options, budget_nats=1.0, prompt_tokens=0, output_tokens=1)
    if mix is None:
        return None
    kept = {group: type_name for group, type_name in mix.types.items() if type_name != COMPRESSED}
    shares = {gate: sum(share for share, one in zip(own, found, strict=True) if one.group not in kept) for gate, own in given_up.items()}
    return Protection(groups=kept, shares=shares, extra_bytes=sum(one.extra_bytes for one in found if one.group in kept))
