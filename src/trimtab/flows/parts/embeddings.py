"""Embedding models: two forms held against each other on the retrieval suite, or one by itself. In this process, one after the other."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from trimtab.compress.child import make_apart
from trimtab.core.decision import CandidateResult
from trimtab.core.deployment import CandidateSpec, Recipe, Settings, parse_spec
from trimtab.core.embedding import OTHER, EmbeddingForm, read_form
from trimtab.core.errors import EngineRefused, InputError, MissingError
from trimtab.core.evidence import Evidence, Outcome
from trimtab.core.files import canonical_json, to_plain, write_atomic
from trimtab.core.model import Snapshot
from trimtab.core.policy import Policy
from trimtab.decide.decide import decide
from trimtab.decide.policies import load_policy, policy_sha256
from trimtab.decide.scope import evidence_for
from trimtab.engines.embedding import Embedder, Vectors, embedder_class, unit
from trimtab.engines.registry import engine_names
from trimtab.evaluate.retrieval import FOUND_AMONG, VERSION, Found, Retrieval, found_by, jaccard, load_retrieval, outcomes_of
from trimtab.flows.events import Event, OnEvent
from trimtab.flows.parts.opening import AS_SHIPPED, recipe_named
from trimtab.record.disk import sentences
from trimtab.record.home import cache_dir
from trimtab.record.report import write_report
from trimtab.record.run import DECISION_SCHEMA, now
from trimtab.sources.endpoint import is_endpoint
from trimtab.sources.open import is_embedding, open_source
from trimtab.stats.paired import clustered_mean

SCHEMA = "trimtab.embedding/1"
DEFAULT_POLICY = "embedding"
FOR_TEXT = ("standard", "strict", "answers")
"""Policies of models that write text; one of these is what the command has where the user named none."""
OTHER_POOLING, FEW_DIMENSIONS = "other-pooling", "few-dimensions"
"""Planted faults: the pooling that the model was not trained with, and vectors cut to a twelfth of their width."""
WIDTH_SHARE = 12
CONFIDENCE = 0.95


@dataclass(frozen=True, kw_only=True)
class Side:
    """One form of an embedding model, built. source: the directory that it was made from, whose tokenizer and pooling hold"""

    id: str
    engine: str
    recipe: Recipe
    settings: Settings
    source: Snapshot
    snapshot: Snapshot
    form: EmbeddingForm

    def opened(self, form: EmbeddingForm | None = None) -> Embedder:
        return embedder_class(self.engine)(self.snapshot, form or self.form, threads=self.settings.threads)

    def plain(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "engine": self.engine,
            "recipe": self.recipe.name,
            "settings": self.settings.given(),
            "source": self.source.source,
            "weights_sha256": self.snapshot.digest,
            "size_bytes": self.snapshot.size_bytes,
            "build": to_plain(embedder_class(self.engine).build()),
            "pooling": self.form.pooling,
        }


@dataclass(frozen=True, kw_only=True)
class Reference:
    """What the reference finds; alone: with each text computed by itself; planted: with each of the planted faults, by name."""

    found: Found
    alone: Found
    planted: Mapping[str, Found]


def are_embeddings(specs: Sequence[str], *, offline: bool) -> bool:
    """Whether specs name embedding models, by their headers; False for what cannot be opened, of which others tell why.

    Raises InputError where one is and another is not.
    """
    if any(is_endpoint(spec) for spec in specs):
        return False
    try:
        found = [is_embedding(parse_spec(spec, engine_names()).source, cache_dir=cache_dir(), offline=offline) for spec in specs]
    except (InputError, MissingError):
        return False
    if any(found) and not all(found):
        raise InputError(
            f"{specs[found.index(True)]} is an embedding model and {specs[found.index(False)]} is not; compare like with like."
        )
    return bool(found) and all(found)


def compare_embeddings(a: str, b: str, *, policy: str, out: Path, offline: bool, on_event: OnEvent) -> dict[str, Any]:
    """Does B find what A finds? decision.json as JSON types, also written to `out` with report.html.

    policy: one for embeddings; a shipped one for text stands for `embedding`. Raises InputError, MissingError, InfeasibleError.
    """
    rules = load_policy(DEFAULT_POLICY if policy in FOR_TEXT else policy)
    suite = load_retrieval()
    reference, candidate = side_of(a, "A", offline, on_event), side_of(b, "B", offline, on_event)
    before = reference_of(reference, suite, on_event)
    after = found_of(candidate, suite, on_event)
    decision = decide(rules, evidence_of(rules, suite, before, after))
    plain = to_plain(decision)
    gates = [{**gate, "evidence_for": evidence_for(gate)} for gate in plain.pop("gates")]
    row = CandidateResult(
        id=candidate.id,
        engine=candidate.engine,
        recipe=candidate.recipe.name,
        settings=candidate.settings.given(),
        status="certified",
        verdict=decision.verdict,
        reasons=tuple(decision.reasons),
        details=candidate.plain(),
    )
    document = {
        "schema": DECISION_SCHEMA,
        "kind": "compare",
        "verdict": decision.verdict,
        "reasons": list(decision.reasons),
        "reference": {**reference.plain(), "provenance": f"{a}, as given"},
        "baseline": reference.plain(),
        "chosen": None,
        "speedup": {},
        "gates": gates,
        "decision": plain,
        "candidates": [to_plain(row)],
        "policy": {**to_plain(rules), "sha256": policy_sha256(rules)},
        "embedding": {
            "suite": _suite_row(suite),
            "rows": [
                {"id": side.id, "size_bytes": side.snapshot.size_bytes, **levels_of(suite, found, before.found)}
                for side, found in ((reference, before.found), (candidate, after))
            ]
            + [
                {"id": f"planted fault: {name}", "size_bytes": None, **levels_of(suite, found, before.found)}
                for name, found in before.planted.items()
            ],
        },
        "finished": now(),
    }
    with sentences(out, "write"):
        write_atomic(out / "decision.json", canonical_json(document) + "\n")
    write_report(out / "report.html", document)
    return document


def evaluate_embeddings(model: str, *, reference: str, out: Path, offline: bool, on_event: OnEvent) -> dict[str, Any]:
    """What a model finds on the retrieval suite, alone or beside a reference; no verdict. Written to `out` as embedding.json.

    Raises InputError, MissingError, InfeasibleError.
    """
    suite = load_retrieval()
    sides = [side_of(spec, "", offline, on_event) for spec in ([model, reference] if reference else [model])]
    found = [found_of(side, suite, on_event) for side in sides]
    document = {
        "schema": SCHEMA,
        "embedding": {
            "suite": _suite_row(suite),
            "rows": [{**side.plain(), **levels_of(suite, one, found[-1])} for side, one in zip(sides, found, strict=True)],
        },
        "finished": now(),
    }
    with sentences(out, "write"):
        write_atomic(out / "embedding.json", canonical_json(document) + "\n")
    return document


def side_of(spec: str, name: str, offline: bool, on_event: OnEvent) -> Side:
    """What a user typed, built by its recipe. Raises InputError, MissingError, InfeasibleError."""
    typed: CandidateSpec = parse_spec(spec, engine_names())
    engine = typed.engine or "transformers"
    kind = embedder_class(engine)
    kind.build()
    unknown = [key for key in typed.settings.given() if key != "threads"]
    if unknown:
        raise InputError(f"{unknown[0]} has no meaning for an embedding model here; the only setting is threads.")
    source = open_source(typed.source, cache_dir=cache_dir(), offline=offline, embedding=True)
    if source.format != "safetensors":
        raise InputError(f"{typed.source} is a {source.format} file; give the sentence-transformers directory that it was made from.")
    form = read_form(source.root)
    recipe = recipe_named(typed.recipe, engine)
    if recipe.name == AS_SHIPPED and kind.format != source.format:
        recipe = recipe_named("f32", engine)
    on_event(Event(phase="build", message=f"{name}{': ' if name else ''}{typed.source} in {engine}"))
    snapshot = asyncio.run(make_apart(recipe, source, cache_dir() / "products"))
    if snapshot.format != kind.format:
        raise InputError(f"Recipe {recipe.name!r} gives {snapshot.format} weights, which {engine} does not embed with.")
    label = f"{engine} {recipe.name.removeprefix(f'{engine}-')} {Path(typed.source).name}"
    return Side(
        id=f"{name}: {label}" if name else label,
        engine=engine,
        recipe=recipe,
        settings=typed.settings,
        source=source,
        snapshot=snapshot,
        form=form,
    )


def found_of(side: Side, suite: Retrieval, on_event: OnEvent, *, batch: int = 32, form: EmbeddingForm | None = None) -> Found:
    """What a side finds. Raises EngineRefused (an InfeasibleError) for vectors that are not finite."""
    on_event(Event(phase="embed", message=f"{side.id}: {len(suite.texts)} texts"))
    embedder = side.opened(form)
    try:
        vectors: Vectors = embedder.embed(tokens_of(side.source.root, suite.texts, side.form.max_tokens), batch=batch)
    finally:
        embedder.close()
    if not (abs((vectors.astype(float) ** 2).sum(1) - 1.0) < 1e-3).all():
        raise EngineRefused(f"{side.id} gives vectors that are not finite or without length.")
    return found_by(suite, vectors)


def reference_of(side: Side, suite: Retrieval, on_event: OnEvent) -> Reference:
    """The reference, its noise and its planted fault."""
    found = found_of(side, suite, on_event)
    few = unit(found.vectors[:, : max(2, found.vectors.shape[1] // WIDTH_SHARE)])
    other = replace(side.form, pooling=OTHER[side.form.pooling])
    return Reference(
        found=found,
        alone=found_of(side, suite, on_event, batch=1),
        planted={OTHER_POOLING: found_of(side, suite, on_event, form=other), FEW_DIMENSIONS: found_by(suite, few)},
    )


def evidence_of(rules: Policy, suite: Retrieval, reference: Reference, candidate: Found) -> Evidence:
    """What a decision rests on."""
    planted = {name: outcomes_of(suite, found, reference.found) for name, found in reference.planted.items()}
    return Evidence(
        use="fixed_n",
        reference=outcomes_of(suite, reference.found, reference.found),
        candidate=outcomes_of(suite, candidate, reference.found),
        controls={gate.name: tuple(one for one in planted.get(gate.control, ()) if one.suite == gate.suite) for gate in rules.gates},
        noise={"texts one by one": outcomes_of(suite, reference.alone, reference.found)},
    )


def tokens_of(folder: Path, texts: Sequence[str], max_tokens: int) -> list[list[int]]:
    """Token ids of texts by the directory's tokenizer.json, with its first and last tokens, cut to max_tokens. Raises InputError."""
    try:
        from tokenizers import Tokenizer
    except ImportError as error:
        raise MissingError(f"Embedding models need tokenizers ({error}).", "pip install 'trimtab[transformers]'") from error
    path = folder / "tokenizer.json"
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # tokenizers raises nothing more precise
        raise InputError(f"{path} is no tokenizer that can be read ({str(error)[:120]}).") from error
    tokenizer.no_padding()
    tokenizer.enable_truncation(max_tokens)
    return [one.ids for one in tokenizer.encode_batch(list(texts))]


def _suite_row(suite: Retrieval) -> dict[str, Any]:
    return {
        "name": "retrieval",
        "version": VERSION,
        "digest": suite.digest,
        "n_questions": len(suite.questions),
        "n_passages": len(suite.passages),
        "n_clusters": len(set(suite.topics)),
    }


def levels_of(suite: Retrieval, found: Found, reference: Found) -> dict[str, Any]:
    """Means with intervals at CONFIDENCE over topics; those beside the reference are of the reference itself 1."""
    outcomes = outcomes_of(suite, found, reference)
    levels = {name: _mean([one for one in outcomes if one.suite == name]) for name in ("rank", "order", "vector")}
    first = [replace(one, value=float(bool(one.correct))) for one in outcomes if one.suite == "rank"]
    among = sum(jaccard(mine, other) for mine, other in zip(found.orders, reference.orders, strict=True)) / len(found.orders)
    moved = int((found.orders[:, 0] != reference.orders[:, 0]).sum())
    return {
        "mean_reciprocal_rank": levels["rank"],
        "recall_at_1": _mean(first),
        f"recall_at_{FOUND_AMONG}": _mean([one for one in outcomes if one.suite == "found"]),
        "overlap": levels["order"],
        "cosine": levels["vector"],
        "jaccard_at_10": among,
        "n_first_passage_changed": moved,
    }


def _mean(outcomes: Sequence[Outcome]) -> dict[str, Any] | None:
    if not outcomes:
        return None
    mean = clustered_mean([one.value or 0.0 for one in outcomes], [one.cluster for one in outcomes])
    return to_plain(mean.interval(CONFIDENCE))  # type: ignore[no-any-return]
