"""The parts of the benchmarks that hold forms of one model's weights against each other, and the tables made of it."""

import asyncio
import importlib.util
import json
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from trimtab.core.evidence import Item, Outcome
from trimtab.testing.tiny_models import write_tiny_gguf

PRONOUNS = {"male": "he", "female": "she", "neutral": "they"}
BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


def loaded(path: Path, name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


forms = loaded(BENCHMARKS / "parts" / "forms.py", "parts.forms")
tables = loaded(BENCHMARKS / "parts" / "tables.py", "parts.tables")
bits = loaded(BENCHMARKS / "what_bits_change.py", "bits_benchmark")
agreement = loaded(BENCHMARKS / "agreement.py", "agreement_benchmark")


def item(suite: str, key: str, cluster: str = "", **more: Any) -> Item:
    return Item(
        id=f"{suite}-{key}", suite=suite, cluster=f"{suite}-{cluster or key}", scorer="nats_per_token", options=(" a b c d",), **more
    )


def outcomes(suite: str, values: list[float], groups: tuple[str, ...] = ("",), **more: Any) -> tuple[Outcome, ...]:
    """One a cluster and group; the groups of a cluster one after the other."""
    return tuple(
        Outcome(
            item_id=f"{suite}-{number}", suite=suite, cluster=f"{number // len(groups)}", value=value, n_tokens=3,
            group=groups[number % len(groups)], **more,
        )
        for number, value in enumerate(values)
    )  # fmt: skip


def test_noise_has_the_share_that_was_asked_for_on_matrices_and_is_nowhere_else(tmp_path: Path) -> None:
    import gguf

    source = write_tiny_gguf(tmp_path / "tiny.gguf", weight_type="F16", hidden_size=64)
    for name, seed in (("a", 1), ("again", 1), ("b", 2)):
        forms.add_noise(source, tmp_path / f"{name}.gguf", 0.1, seed)
    before, after = (gguf.GGUFReader(path).tensors for path in (source, tmp_path / "a.gguf"))
    kinds = set()
    for old, new in zip(before, after, strict=True):
        moved = np.asarray(new.data, dtype=np.float64) - np.asarray(old.data, dtype=np.float64)
        if sum(size > 1 for size in old.shape) > 1:
            assert moved.std() == pytest.approx(0.1 * np.asarray(old.data, dtype=np.float64).std(), rel=0.1)
            kinds.add("matrix")
        else:
            assert not moved.any()
            kinds.add("vector")
    assert kinds == {"matrix", "vector"}
    assert (tmp_path / "a.gguf").read_bytes() == (tmp_path / "again.gguf").read_bytes() != (tmp_path / "b.gguf").read_bytes()


def test_noise_is_not_put_on_quantised_weights(tmp_path: Path) -> None:
    source = write_tiny_gguf(tmp_path / "tiny.gguf", weight_type="Q8_0")
    with pytest.raises(ValueError, match="float weights only"):
        forms.add_noise(source, tmp_path / "noisy.gguf", 0.1, 1)
    assert not (tmp_path / "noisy.gguf").exists()


def test_the_same_rows_are_drawn_in_every_sub_suite_and_clusters_stay_whole() -> None:
    ambiguous, lean = ([item(suite, f"Age-{n}", "template") for n in range(40)] for suite in ("bbq-ambiguous", "bbq-lean"))
    one, other = (forms.drawn(items, 7, whole_clusters=False) for items in (ambiguous, lean))
    assert [each.id.removeprefix("bbq-ambiguous-") for each in one] == [each.id.removeprefix("bbq-lean-") for each in other]
    assert len(one) == 7
    assert forms.drawn(ambiguous[::-1], 7, whole_clusters=False) == one[::-1]
    people = [item("decisions", f"{case}-{group}", f"{case}") for case in range(9) for group in "ab"]
    kept = forms.drawn(people, 4, whole_clusters=True)
    assert len(kept) == 8
    assert len({each.cluster for each in kept}) == 4


@pytest.mark.slow
def test_what_was_scored_is_kept_and_what_else_is_asked_is_scored_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = str(write_tiny_gguf(tmp_path / "tiny.gguf", weight_type="F32"))
    shipped = forms.Form(name="as-shipped")
    items = {
        "one": [item("one", str(n), prompt="x y z") for n in range(3)],
        "two": [item("two", "long", prompt="x " * 300), item("two", "short")],
    }

    def bench(settings: str = "context_tokens=128") -> Any:
        opening = forms.open_bench(
            model, items, state=tmp_path / "state", settings=settings, deadline_s=time.monotonic() + 60.0, reference=shipped
        )
        return asyncio.run(opening)

    first = bench()
    assert asyncio.run(forms.score_forms(replace(first, deadline_s=0.0), [shipped], [["one"], ["two"]])) == {"as-shipped": {}}
    found = asyncio.run(forms.score_forms(first, [shipped], [["one"], ["two"]]))
    assert [len(found["as-shipped"][suite]) for suite in ("one", "two")] == [3, 1], "what is longer than the context is left out"

    async def no_worker(*args: Any, **settings: Any) -> None:
        raise AssertionError("it was scored before")

    other = bench("context_tokens=192")
    monkeypatch.setattr(forms.WorkerClient, "start", no_worker)
    assert asyncio.run(forms.score_forms(first, [shipped], [["one", "two"]])) == found
    with pytest.raises(AssertionError):
        asyncio.run(forms.score_forms(other, [shipped], [["one"]]))


def test_changes_are_told_with_intervals_and_groups_in_spite_of_the_search() -> None:
    rng = np.random.default_rng(0)
    before = {"text": [-3.0 + x for x in rng.normal(0, 0.1, 40)], "fairness": list(rng.normal(0, 0.5, 80))}
    lost = [value - 0.2 + x for value, x in zip(before["text"], rng.normal(0, 0.05, 40), strict=True)]
    tilted = [
        value + (0.4 if number % 2 else 0.0) + x
        for number, (value, x) in enumerate(zip(before["fairness"], rng.normal(0, 0.05, 80), strict=True))
    ]
    pair = ("sex:man", "sex:woman")
    found = {
        forms.REFERENCE.name: {"text": outcomes("text", before["text"]), "fairness": outcomes("fairness", before["fairness"], pair)},
        "llamacpp-q2_k": {"text": outcomes("text", lost), "fairness": outcomes("fairness", tilted, pair)},
        "llamacpp-q8_0": {"fairness": outcomes("fairness", before["fairness"], pair)},
    }
    rows = forms.levels_of(found, forms.REFERENCE.name, {"text": "nats/token", "fairness": "nats"})
    shown = [forms.Form(name="llamacpp-q2_k"), forms.Form(name="llamacpp-q8_0")]
    head, _, line = bits.means(["text", "fairness"], rows, shown)
    assert head == "| sub-suite (level at 16 bits) | Q2_K | Q8_0 |"
    assert line.startswith("| text (-")
    assert rows["llamacpp-q2_k"]["text"]["change"]["value"] == pytest.approx(-0.2, abs=0.05)
    assert line.endswith("] * | - |"), "what was not scored is not told"
    woman, still = bits.moved(["text", "fairness"], rows, shown)[2:]
    assert "woman +0." in woman
    assert " man -0." in woman
    assert still.startswith("| fairness (40) | Q8_0 | none found")


def test_a_sub_suites_place_is_told_on_the_items_that_certify() -> None:
    cloze = [item("cloze", str(n), prompt="x") for n in range(40)]
    certify = {one.id for one in bits.split(cloze)[1]}
    before = tuple(Outcome(item_id=one.id, suite="cloze", cluster=one.cluster, value=-1.0, n_tokens=3) for one in cloze)

    def moved(step: float) -> tuple[Outcome, ...]:
        # Items for the search move by a nat; none of it may be seen.
        return tuple(
            replace(one, value=-1.0 + (step * (1.0 + 0.1 * (number % 3)) if one.item_id in certify else -1.0))
            for number, one in enumerate(before)
        )

    found = {"llamacpp-f16": {"cloze": before}, "llamacpp-q8_0": {"cloze": moved(-0.01)}, "llamacpp-q2_k": {"cloze": moved(-0.4)}}
    shown = [forms.Form(name="llamacpp-q8_0"), forms.Form(name="llamacpp-q2_k")]
    line = bits.separates(found, {"cloze": cloze}, {"cloze": "nats/token"}, shown)[-1]
    assert line.startswith("| cloze | -1.000 | -0.01")
    assert "| -0.4" in line


def test_every_group_is_told_on_the_templates_that_certify() -> None:
    frames = [replace(item("fairness", f"{n}-{g}", str(n)), group=f"sex:{g}") for n in range(80) for g in ("man", "woman")]
    certify = {one.id for one in bits.split(frames)[1]}
    before = tuple(Outcome(item_id=one.id, suite=one.suite, cluster=one.cluster, value=0.0, n_tokens=3, group=one.group) for one in frames)
    # Women gain 0.2 where it certifies, and lose a nat where it does not.
    after = tuple(
        replace(one, value=(0.2 if one.item_id in certify else -1.0) + 0.001 * (number % 5) if one.group == "sex:woman" else 0.0)
        for number, one in enumerate(before)
    )
    found = {"llamacpp-f16": {"fairness": before}, "llamacpp-q2_k": {"fairness": after}}
    head, _, line = bits.axes_moved(found, frames, [forms.Form(name="llamacpp-q2_k")])
    assert head.startswith("| axis | Q2_K (se 0.000 to 0.")
    assert line == "| sex | man -0.101, woman +0.101 |"


def row(value: float, reach: float) -> dict[str, Any]:
    return {"level": {"n": 60}, "change": {"value": value, "low": value - reach, "high": value + reach}, "groups": []}


@pytest.mark.parametrize(
    ("theirs", "reach", "said"),
    [
        ([0.1, 0.2, 0.3, 0.5, 0.4, 0.6, 0.7, 0.8], 0.01, "together"),
        ([-0.1, -0.2, -0.3, -0.5, -0.4, -0.6, -0.7, -0.8], 0.01, "apart"),
        ([0.4, -0.1, 0.3, -0.2, 0.1, 0.5, -0.3, 0.2], 0.01, "cannot tell: both move, in different orders"),
        ([0.4, -0.1, 0.3, -0.2, 0.1, 0.5, -0.3, 0.2], 0.35, "cannot tell: the public set moves clearly in 2 of 8 forms"),
        ([0.0] * 8, 0.01, "cannot tell: one side does not move at all"),
        ([0.1, 0.2, 0.3, 0.4], 0.01, "cannot tell: 4 forms"),
        ([0.1, 0.2, 0.3, 0.4, 0.5], 0.01, "together"),
    ],
)
def test_what_is_said_of_a_pair(theirs: list[float], reach: float, said: str) -> None:
    rows = {str(n): {"choice": row(0.1 * (n + 1), 0.01), "copa": row(value, reach)} for n, value in enumerate(theirs)}
    rows["not scored on one"] = {"choice": row(1.0, 0.01)}
    one = agreement.compared("choice", "copa", rows)
    assert one["answer"] == said
    assert one["forms"] == len(theirs)
    json.dumps(one, allow_nan=False)


def test_the_interval_of_a_rank_correlation_is_the_published_one() -> None:
    """Bonett and Wright: tanh(atanh(r) -+ 1.96 sqrt((1 + r^2 / 2) / (n - 3)))."""
    value, low, high = agreement.rank_correlation([1, 2, 3, 4, 5, 6], [1, 2, 4, 3, 6, 5])
    assert value == pytest.approx(0.885714, abs=1e-6)
    assert (low, high) == (pytest.approx(0.06638, abs=1e-4), pytest.approx(0.99164, abs=1e-4))


def test_the_expected_pronoun_is_that_of_the_occupations_majority(tmp_path: Path) -> None:
    sentences = tmp_path / "winogender_sentences.tsv"
    rows = [(job, n, sex) for job in ("nurse", "miner") for n in (0, 1) for sex in ("male", "female", "neutral")]
    lines = [f"{job}.visitor.{n}.{sex}.txt\tThe {job} saw that {PRONOUNS[sex]} was {n}." for job, n, sex in rows]
    sentences.write_text("sentid\tsentence\n" + "\n".join(lines) + "\n")
    (tmp_path / agreement.OCCUPATIONS).write_text("occupation\tbls_pct_female\nnurse\t90.1\nminer\t4.5\n")
    found = agreement.public_items("winogender", sentences)
    assert [(one.id, one.options[0], one.favoured) for one in found] == [
        ("winogender-nurse.visitor.0", "The nurse saw that she was 0.", (0,)),
        ("winogender-miner.visitor.0", "The miner saw that he was 0.", (0,)),
    ]


def test_files_of_one_set_are_put_together_but_for_the_two_parts_of_arc(tmp_path: Path) -> None:
    for name in ("arc_easy", "arc_challenge"):
        question = {"query": f"Question: {name}?", "choices": ["a", "b"], "gold": 1}
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(question) + "\n" for _ in range(9)))
    sets = [("arc", tmp_path / "arc_easy.jsonl"), ("arc", tmp_path / "arc_challenge.jsonl")]
    items, groups = agreement.items_of(sets, 5, {"arc-easy": 3})
    assert {suite: len(found) for suite, found in items.items() if suite != "choice"} == {"arc-easy": 3, "arc-challenge": 5}
    assert {one.suite for one in items["arc-easy"]} == {"arc-easy"}
    assert groups == [["choice"], ["arc-easy"], ["arc-challenge"]]


def test_a_table_goes_between_its_marks_and_nowhere_else(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- one: begin -->\nold\n<!-- one: end -->\nafter\n")
    tables.write_block(page, "one", tables.table(["a", "b"], [["1", "2"]]))
    assert page.read_text() == "before\n<!-- one: begin -->\n| a | b |\n|---|---|\n| 1 | 2 |\n<!-- one: end -->\nafter\n"
    with pytest.raises(SystemExit, match="no marks"):
        tables.write_block(page, "two", ["x"])
