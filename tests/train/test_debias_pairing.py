"""The objective `paired`: what corresponds, what the target is, and that training by it closes a gap."""

from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("peft")

from peft import LoraConfig, get_peft_model  # noqa: E402
from transformers import LlamaConfig, LlamaForCausalLM  # noqa: E402

from trimtab.core.errors import InputError  # noqa: E402
from trimtab.train.batch import MicroBatch  # noqa: E402
from trimtab.train.debias.pairing import GenderTokens, Paired, balanced, gender_tokens, twins_of  # noqa: E402
from trimtab.train.objectives import to_device  # noqa: E402


def test_what_stands_for_each_other_behind_the_first_difference() -> None:
    twins = twins_of([1, 2, 9, 4, 5, 9], [1, 2, 8, 4, 5, 8])
    assert twins is not None
    assert twins.same == ((3, 3), (4, 4))
    assert twins.exchanged == ((5, 6, 5, 6),)  # the first exchange introduces the group and is left alone


def test_stretches_of_other_lengths_are_exchanged_whole() -> None:
    twins = twins_of([1, 9, 4, 5, 6, 9, 3], [1, 8, 4, 5, 6, 7, 7, 3])
    assert twins is not None
    assert twins.exchanged == ((5, 6, 5, 7),)
    assert (6, 7) in twins.same


@pytest.mark.parametrize(("one", "other"), [([1, 2, 3], [1, 2, 3]), ([1, 2, 3, 4], [5, 6, 7, 8])])
def test_the_same_text_and_two_texts_are_no_twins(one: list[int], other: list[int]) -> None:
    assert twins_of(one, other) is None


def test_the_target_is_the_mean_with_the_roles_reversed() -> None:
    torch.manual_seed(0)
    one, other = torch.log_softmax(torch.randn(2, 3, 7, dtype=torch.float64) * 2, -1)
    first, second = balanced(one, other, [(1, 4)], [])
    order = [0, 4, 2, 3, 1, 5, 6]
    assert torch.allclose(first.exp(), (one.exp() + other.exp()[:, order]) / 2)
    assert torch.allclose(second, first[:, order])
    first, second = balanced(one, other, [], [2])
    assert torch.allclose(first.exp().sum(-1), torch.ones(3, dtype=torch.float64))
    assert torch.equal(first[:, 2], one[:, 2])
    assert torch.equal(second[:, 2], other[:, 2])
    rest = [0, 1, 3, 4, 5, 6]
    assert torch.allclose(*(torch.softmax(values[:, rest], -1) for values in (first, second)))


def test_words_of_gender_are_pairs_of_single_tokens() -> None:
    vocabulary = {" he": 4, " she": 5, "He": 6, "She": 8, " her": 7, " man": 9}
    for before in ([], [0]):
        found = gender_tokens(lambda text, before=before: [*before, *([vocabulary[text]] if text in vocabulary else [1, 2] * bool(text))])
        assert {frozenset(pair) for pair in found.pairs} == {frozenset((4, 5)), frozenset((6, 8))}
        assert found.unclear == (7,)


def test_a_pair_by_gender_reverses_every_word_of_gender_another_pair_its_own() -> None:
    objective = Paired(GenderTokens(pairs=((10, 11), (20, 21)), unclear=(30,)), 0.0)
    one, other = torch.log_softmax(torch.randn(2, 2, 40), -1)
    by_gender, _ = objective._reversed_mean(one, other, twins_of([1, 10, 5, 6], [1, 11, 5, 6]))  # type: ignore[arg-type]
    assert torch.allclose(by_gender, balanced(one, other, [(10, 11), (20, 21)], [30])[0])
    by_faith, _ = objective._reversed_mean(one, other, twins_of([1, 2, 5, 6], [1, 3, 5, 6]))  # type: ignore[arg-type]
    assert torch.allclose(by_faith, balanced(one, other, [(2, 3)], [])[0])


def _model(adapters: bool = True):
    torch.manual_seed(1)
    config = LlamaConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        tie_word_embeddings=True,
    )
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(4.0)  # a random model that prefers something
    return get_peft_model(model, LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", init_lora_weights=True)) if adapters else model


def _batch(rows: list[list[int]]) -> MicroBatch:
    n, longest = len(rows), max(map(len, rows)) - 1
    inputs, targets, weights = np.zeros((n, longest), np.int64), np.zeros((n, longest), np.int64), np.zeros((n, longest), np.float32)
    for place, row in enumerate(rows):
        inputs[place, : len(row) - 1], targets[place, : len(row) - 1], weights[place, : len(row) - 1] = row[:-1], row[1:], 1.0
    positions = np.tile(np.arange(longest), (n, 1))
    return MicroBatch(
        input_ids=inputs, target_ids=targets, weights=weights, position_ids=positions, document_ids=np.zeros((n, longest), np.int32)
    )


ROWS = [[1, 10, 5, 6, 7, 10], [1, 11, 5, 6, 7, 11]]
GENDER = GenderTokens(pairs=((10, 11),), unclear=())


def test_before_training_only_the_shared_part_costs_and_a_twin_of_itself_costs_nothing() -> None:
    model, cpu = _model(), torch.device("cpu")
    assert float(Paired(GENDER, 1.0)(model, to_device(_batch([ROWS[0], ROWS[0]]), cpu)).detach()) == pytest.approx(0.0, abs=1e-5)
    loss = Paired(GENDER, 0.0)(model, to_device(_batch(ROWS), cpu))
    assert float(loss.detach()) > 1e-4
    assert float(Paired(GENDER, 1.0)(model, to_device(_batch(ROWS), cpu)).detach()) > float(loss.detach())


def test_padding_changes_nothing() -> None:
    model, cpu, batch = _model(), torch.device("cpu"), _batch(ROWS)
    wide = {name: np.pad(getattr(batch, name), ((0, 0), (0, 7))) for name in ("input_ids", "target_ids", "weights", "position_ids")}
    padded = replace(batch, document_ids=np.pad(batch.document_ids, ((0, 0), (0, 7)), constant_values=-1), **wide)
    plain, more = (float(Paired(GENDER, 0.5)(model, to_device(one, cpu)).detach()) for one in (batch, padded))
    assert more == pytest.approx(plain, rel=1e-5)


def test_weights_multiply_the_loss() -> None:
    model, cpu, batch = _model(), torch.device("cpu"), _batch(ROWS)
    once = float(Paired(GENDER, 0.5)(model, to_device(batch, cpu)).detach())
    twice = float(Paired(GENDER, 0.5)(model, to_device(replace(batch, weights=batch.weights * 2), cpu)).detach())
    assert twice == pytest.approx(2 * once, rel=1e-5)


def test_training_closes_the_gap_and_leaves_the_beginning_alone() -> None:
    model, batch = _model(), to_device(_batch(ROWS), torch.device("cpu"))
    objective = Paired(GENDER, 1.0)

    def shares() -> torch.Tensor:
        with torch.no_grad():
            return torch.log_softmax(model(input_ids=batch.input_ids).logits, -1)

    def gap() -> float:
        said = shares().gather(-1, batch.target_ids[..., None])[..., 0]
        return float((said[0, 1:] - said[1, 1:]).abs().sum())

    first, before = gap(), shares()[0, 0]
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    for _ in range(60):
        optimizer.zero_grad()
        objective(model, batch).backward()
        optimizer.step()
    assert gap() < 0.3 * first
    assert float((before.exp() * (before - shares()[0, 0])).sum()) < 0.05


def test_a_model_without_adapters_and_an_odd_batch_are_refused() -> None:
    cpu = torch.device("cpu")
    with pytest.raises(InputError, match="lora_rank"):
        Paired(GENDER, 1.0)(_model(adapters=False), to_device(_batch(ROWS), cpu))
    with pytest.raises(InputError, match="even"):
        Paired(GENDER, 1.0)(_model(), to_device(_batch(ROWS[:1]), cpu))
