"""The questions of one run: items split into search and certify, prepared on the reference's tokens, and the gates that read them."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from trimtab.core.deployment import Candidate
from trimtab.core.errors import EngineRefused, InputError
from trimtab.core.evidence import Item
from trimtab.core.files import digest_of
from trimtab.core.policy import GateSpec, Policy
from trimtab.decide.policies import catalog_gate
from trimtab.engines.base import with_first
from trimtab.engines.client import WorkerClient
from trimtab.evaluate.generation import generation_prompts
from trimtab.evaluate.requests import PreparedSuite
from trimtab.evaluate.runner import prepare
from trimtab.evaluate.split import interleaved, looks, split
from trimtab.evaluate.suites.registry import Suite, load_suite

PILOT_SHARE = 0.5
"""Share of the search clusters that the prediction of power rests on."""
SAMPLE_SHARE = 0.1
"""Share of the certify clusters that the noise floor is measured on."""
OWN_MARGINS = {"nats_per_token": ("nats/token", 0.02), "margin": ("nats/token", 0.05), "contrast": ("nats", 0.2)}
"""Unit and margin of a gate for items that the policy does not know, by scorer."""


@dataclass(frozen=True, kw_only=True)
class Exam:
    """Items as token ids.

    search: for screening and choosing; parts: for certifying, one part a planned look, disjoint in clusters from search and each other
    sample: some of the certify clusters, for the noise floor; pilot: some of the search clusters, to predict the gates' power
    chat_prompts: rendered prompts for served answers; chat_texts: what the user said in them
    """

    name: str
    version: str
    digest: str
    items: Mapping[str, Item]
    search: PreparedSuite
    parts: tuple[PreparedSuite, ...]
    sample: PreparedSuite
    pilot: PreparedSuite
    chat_prompts: tuple[tuple[int, ...], ...]
    chat_texts: tuple[str, ...]
    vocab_size: int

    @property
    def certify_tokens(self) -> int:
        return sum(part.n_tokens for part in self.parts)

    @property
    def longest_tokens(self) -> int:
        """Of one item that certifies, its longest option included."""
        requests = [one.request for part in self.parts for one in part.requests]
        return max((len(one.prefix_ids) + max(map(len, one.continuations)) for one in requests), default=0)

    @property
    def n_clusters(self) -> int:
        return len({(item.suite, item.cluster) for item in self.items.values()})


def suite_names(texts: Sequence[str]) -> list[str]:
    """Names and files of suites, one by one: `core,bias` is two, a file whose name holds a comma is one. Raises InputError."""
    names = [(text, name.strip()) for text in texts for name in ([text] if Path(text).is_file() else text.split(","))]
    empty = next((text for text, name in names if not name), None)
    if empty is not None:
        raise InputError(f"--suite {empty!r} holds an empty name; write suites with commas between them, such as core,bias.")
    return [name for _, name in names]


def load_suites(names: Sequence[str]) -> tuple[Suite, ...]:
    """Suites by name or file, several with commas. Raises InputError, also for one item id in two suites."""
    suites = tuple(load_suite(name) for name in suite_names(names))
    seen: dict[str, str] = {}
    for suite in suites:
        for item in suite.items:
            if item.id in seen:
                raise InputError(f"Item {item.id!r} is in suite {seen[item.id]!r} and in {suite.name!r}; give one of them another id.")
            seen[item.id] = suite.name
    return suites


def policy_for(policy: Policy, suites: Sequence[Suite]) -> tuple[Policy, tuple[str, ...]]:
    """The policy's gates that have items, and a gate of its own for every sub-suite that the policy does not know.

    Also returns sentences about what was left out or added.
    """
    present: dict[str, Item] = {}
    for suite in suites:
        for item in suite.items:
            present.setdefault(item.suite, item)
    kept = tuple(gate for gate in policy.gates if not gate.suite or gate.suite in present)
    known = {gate.suite for gate in kept}
    added = tuple(_own_gate(name, item) for name, item in present.items() if name not in known)
    absent = [gate.name for gate in policy.gates if gate not in kept]
    notes = [f"no items were asked for that these gates are about: {', '.join(absent)}"] if absent else []
    notes += [f"gate {gate.name}: added for the items asked for, with a margin of {gate.margin:g} {gate.unit}" for gate in added]
    return dataclasses.replace(policy, gates=(*added, *kept)), tuple(notes)


def _own_gate(suite: str, item: Item) -> GateSpec:
    """The gate that the catalog has for a sub-suite, else one by its scorer."""
    if (known := catalog_gate(suite)) is not None:
        return known
    unit, margin = OWN_MARGINS[item.scorer]
    return GateSpec(
        name=suite,
        kind="non_inferiority",
        suite=suite,
        weight="tokens" if item.scorer == "nats_per_token" else "items",
        unit=unit,
        margin=margin,
        control="weights-q2_k",
        reason="Items given by the user; the margin is that of the shipped sub-suite with the same scorer.",
    )


async def prepare_exam(client: WorkerClient, reference: Candidate, suites: Sequence[Suite], policy: Policy, *, share_search: float) -> Exam:
    """Tokenize everything with the reference's tokenizer and template, through its worker. Raises InfeasibleError, InputError."""
    items = [item for suite in suites for item in suite.items]
    searched, certified = split(items, share_search)
    info = await client.info()
    longest = reference.settings.context_tokens or info.context_tokens
    search = _fitting(await prepare(client, searched), longest)
    certify = _fitting(await prepare(client, certified), longest)
    texts = generation_prompts()
    rendered = [await client.render([{"role": "user", "content": text}]) for text in texts]
    prompts = await client.tokenize(rendered, parse_special=True)
    return Exam(
        name="+".join(suite.name for suite in suites),
        version="+".join(suite.version for suite in suites),
        digest=digest_of([suite.digest for suite in suites]),
        items={item.id: item for item in items},
        search=interleaved(search),
        parts=_parts(certify, policy),
        pilot=looks(search, (PILOT_SHARE, 1.0))[0],
        sample=looks(certify, (SAMPLE_SHARE, 1.0))[0],
        chat_prompts=tuple(with_first(ids, info.bos_id) for ids in prompts),
        chat_texts=texts,
        vocab_size=info.vocab_size,
    )


def _parts(certify: PreparedSuite, policy: Policy) -> tuple[PreparedSuite, ...]:
    """One part a look. Suites judged by group are whole in the first: fewer templates than the gate needs would tell nothing."""
    by_group = {gate.suite for gate in policy.gates if gate.kind == "equivalence_by_group"}
    others = {one.suite for one in certify.requests} - by_group
    first, *later = looks(certify.only(others), policy.looks)
    return (PreparedSuite(requests=(*first.requests, *certify.only(by_group).requests)), *later)


def _fitting(prepared: PreparedSuite, context_tokens: int) -> PreparedSuite:
    """All of it, or a refusal that names the first item that is longer than the context: nothing is cut silently."""
    for one in prepared.requests:
        longest = len(one.request.prefix_ids) + max(map(len, one.request.continuations))
        if longest > context_tokens:
            item = one.places[0].item
            raise InputError(
                f"Item {item.id!r} has {longest} tokens, more than the context of {context_tokens}; shorten it, or give the models room, "
                f"such as ?context_tokens={longest + 64}."
            )
    return prepared


async def check_vocabulary(client: WorkerClient, exam: Exam, candidate: Candidate) -> None:
    """Comparisons are made on token ids, so both sides must mean the same by them. Raises EngineRefused."""
    info = await client.info()
    if info.vocab_size != exam.vocab_size:
        raise EngineRefused(f"{candidate.id} has a vocabulary of {info.vocab_size} tokens and the reference one of {exam.vocab_size}.")
    texts = [item.options[0] for item in list(exam.items.values())[:40]] + ["naïve café – 12,345.67 €\n\tdef f(x): return x**2"]
    ids = await client.tokenize(texts)
    back = [await client.detokenize(tokens) for tokens in ids]
    broken = next((text for text, again in zip(texts, back, strict=True) if text.strip() != again.strip()), None)
    if broken is not None:
        raise EngineRefused(f"{candidate.id} does not give back a text that it tokenized ({broken[:40]!r}).")
