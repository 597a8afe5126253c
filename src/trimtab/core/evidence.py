"""Items, what was observed on them, and how the observations may be used."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Scorer = Literal["nats_per_token", "margin", "contrast"]
EvidenceUse = Literal["fixed_n", "sequential", "anytime"]


@dataclass(frozen=True, kw_only=True)
class Item:
    """One thing to score by likelihood.

    suite: sub-suite, the unit that a gate is about: `text`, `cloze`, `choice`, ...
    cluster: template or passage the item shares with others; splits and intervals respect it
    scorer:
        `nats_per_token`  value = mean log-probability per token of options[0] (after `prompt`, may be empty)
        `margin`          value = log P(options[answer]) - max log P(other options), each divided by its number of tokens
        `contrast`        value = logsumexp log P(options in `favoured`) - logsumexp log P(the other options)
    chat: `prompt` is a user message to be put in the model's chat template (with `system`); else it is plain text
    options: continuations; plain text ones carry their leading space
    group: identity group named in the item (counterfactual items), else empty
    Higher values are better for the model under test, always.
    """

    id: str
    suite: str
    cluster: str
    scorer: Scorer
    options: tuple[str, ...]
    prompt: str = ""
    system: str = ""
    chat: bool = False
    answer: int = 0
    favoured: tuple[int, ...] = ()
    group: str = ""
    language: str = "en"


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What one deployment did on one item. `value` None = missing (error says why); it stays in the denominator.

    picked: index of the most likely option, for flips; correct: picked is the right one, None where there is no right one
    p_options: of a `margin` item the probability of each whole option among the item's own options, the right one first; else empty
    """

    item_id: str
    suite: str
    cluster: str
    value: float | None
    n_tokens: int
    group: str = ""
    picked: int | None = None
    correct: bool | None = None
    error: str = ""
    p_options: tuple[float, ...] = ()


@dataclass(frozen=True, kw_only=True)
class ParityProbe:
    """Served tokens re-scored through the scoring path.

    differences: served minus re-scored log-probability per sampled token (nats), in order, of one answer after the other
    answers: index of the answer each difference belongs to (the cluster)
    n_failed: answers that did not finish
    """

    differences: tuple[float, ...]
    answers: tuple[int, ...]
    n_failed: int = 0
    conditions: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class GenerationCheck:
    """Free generation through the served path, one entry an answer: True = broken (looping, gibberish or empty)."""

    prompts: tuple[str, ...]
    broken: tuple[bool, ...]
    why: tuple[str, ...]
    texts: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """All that a decision rests on. Outcomes of reference, candidate and controls are matched by item id.

    use: `fixed_n` looked at once; `sequential` at the policy's planned looks; `anytime` whenever one likes: then the outcomes of the
        reference stand in the order they came, those without a value in their places, and a cluster's items came together
    controls: gate name -> outcomes of that gate's planted positive control on the same items
    noise: outcomes of the reference's own weights under another batch shape, thread count, slot count or F32, by name; on a
        sample of the items at least
    parity: the candidate's probe; parity_noise: the reference's; parity_controls: planted ones, by name
    generation: the candidate's; generation_reference: the reference's; generation_control: the planted one
    """

    use: EvidenceUse
    reference: tuple[Outcome, ...]
    candidate: tuple[Outcome, ...]
    controls: Mapping[str, tuple[Outcome, ...]] = field(default_factory=dict)
    noise: Mapping[str, tuple[Outcome, ...]] = field(default_factory=dict)
    parity: ParityProbe | None = None
    parity_noise: ParityProbe | None = None
    parity_controls: Mapping[str, ParityProbe] = field(default_factory=dict)
    generation: GenerationCheck | None = None
    generation_reference: GenerationCheck | None = None
    generation_control: GenerationCheck | None = None
