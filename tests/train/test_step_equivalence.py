"""However a batch is cut into micro-batches, padded, packed or recomputed, the step is the same. One process; float64 unless said."""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("peft")

sys.path.insert(0, str(Path(__file__).parent / "parts"))

from tiny import Trained, apart, config_for, rows, sequences, train, write_shape  # noqa: E402

from trimtab.core.errors import InputError  # noqa: E402
from trimtab.train import head_loss  # noqa: E402
from trimtab.train.head_loss import head_cross_entropy  # noqa: E402
from trimtab.train.objectives import next_token, to_device  # noqa: E402
from trimtab.train.processes import Processes  # noqa: E402
from trimtab.train.worker import model_for  # noqa: E402

pytestmark = pytest.mark.slow
ALONE = Processes(rank=0, world=1, device=torch.device("cpu"))
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    return write_shape(tmp_path_factory.mktemp("tiny") / "model")


def trained(folder: Path, batches: list, accum: int, **changes: object) -> Trained:
    count = len(batches[0].input_ids)
    return train(config_for(folder, global_batch_seqs=count, micro_batch_seqs=count // accum, **changes), batches, ALONE)


@settings(max_examples=8, deadline=None, derandomize=True)
@given(
    micro=st.integers(1, 3), accum=st.integers(2, 4), n_tokens=st.integers(3, 40), packed=st.booleans(), lora=st.sampled_from([0, 2]),
    recompute=st.sampled_from(["none", "selective", "full"]), clip=st.sampled_from([0.0, 0.05]), seed=st.integers(0, 99),
)  # fmt: skip
def test_micro_batches_add_up_to_one_batch(
    folder: Path, micro: int, accum: int, n_tokens: int, packed: bool, lora: int, recompute: str, clip: float, seed: int
) -> None:
    batches = [sequences(seed + step, micro * accum, n_tokens, packed=packed) for step in range(2)]
    common = {"precision": "fp64", "optimizer": {"clip_norm": clip}, "model": {"lora_rank": lora}}
    one = trained(folder, batches, 1, **common)
    many = trained(folder, batches, accum, recompute=recompute, **common)
    assert apart(one.gradients, many.gradients) < 1e-10
    assert apart(one.weights, many.weights) < 1e-10
    assert many.losses == pytest.approx(one.losses, rel=1e-12)


def test_another_batch_gives_another_gradient(folder: Path) -> None:
    """The comparison above can fail: one weight of one token is enough."""
    batch = sequences(1, 4, 16, packed=True)
    weights = batch.weights.copy()
    weights[0, 0] += 0.01
    one, other = (trained(folder, [each], 2, precision="fp64") for each in (batch, replace(batch, weights=weights)))
    assert apart(one.gradients, other.gradients) > 1e-6


def test_float32_first_gradient(folder: Path) -> None:
    batch = sequences(3, 8, 32, packed=True)
    one, many, exact = trained(folder, [batch], 1), trained(folder, [batch], 8), trained(folder, [batch], 1, precision="fp64")
    assert apart(one.gradients, many.gradients) < 1e-5
    assert apart(one.gradients, exact.gradients) < 1e-4


def test_bf16_is_near_float32_and_keeps_its_masters(folder: Path) -> None:
    batch = sequences(3, 8, 32, packed=False)
    exact, near = trained(folder, [batch], 2), trained(folder, [batch], 2, precision="bf16")

    def flat(gradients: dict) -> torch.Tensor:
        return torch.cat([gradients[name].flatten() for name in sorted(gradients)])

    difference = float((flat(near.gradients) - flat(exact.gradients)).norm() / flat(exact.gradients).norm())
    assert 1e-6 < difference < 0.02
    assert {value.dtype for value in near.weights.values()} == {torch.float32}


def test_a_mean_of_means_would_be_another_loss(folder: Path) -> None:
    """Tokens count, not micro-batches: one sequence has many that count, the other one."""
    batch = sequences(5, 2, 24, packed=False)
    weights = np.ones_like(batch.weights)
    weights[1, 1:] = 0
    batch = replace(batch, weights=weights)
    alone = [trained(folder, [rows(batch, slice(row, row + 1))], 1, precision="fp64").losses[0] for row in (0, 1)]
    both = trained(folder, [batch], 2, precision="fp64").losses[0]
    assert both == pytest.approx((24 * alone[0] + alone[1]) / 25, rel=1e-12)
    assert both != pytest.approx(sum(alone) / 2, rel=1e-3)


@settings(max_examples=10, deadline=None, derandomize=True)
@given(lengths=st.lists(st.integers(2, 12), min_size=2, max_size=4), padding=st.integers(0, 6), seed=st.integers(0, 99))
def test_packed_documents_do_not_see_each_other(folder: Path, lengths: list[int], padding: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    documents = [random.integers(0, 97, n + 1) for n in lengths]
    model = model_for(config_for(folder, precision="fp64"), ALONE)

    def loss(parts: list[np.ndarray], pad: int) -> float:
        n = [len(part) - 1 for part in parts]
        zeros = np.zeros(pad, np.int64)
        batch = replace(
            sequences(0, 1, sum(n) + pad, packed=False),
            input_ids=np.concatenate([*(part[:-1] for part in parts), zeros])[None],
            target_ids=np.concatenate([*(part[1:] for part in parts), zeros])[None],
            weights=np.concatenate([np.ones(sum(n)), zeros]).astype(np.float32)[None],
            position_ids=np.concatenate([*(np.arange(count) for count in n), zeros])[None],
            document_ids=np.concatenate([*(np.full(count, at) for at, count in enumerate(n)), zeros - 1]).astype(np.int32)[None],
        )
        with torch.no_grad():
            return float(next_token(model, to_device(batch, CPU)))

    alone = sum(loss([document], 0) for document in documents)
    assert loss(documents, padding) == pytest.approx(alone, rel=1e-6)  # Llama's norms compute in float32 whatever the weights are
    joined = np.concatenate(documents)
    assert loss([joined], padding) != pytest.approx(alone, rel=1e-4), "the documents are short, but what stands before them matters"


@settings(max_examples=20, deadline=None, derandomize=True)
@given(n=st.integers(1, 40), vocabulary=st.integers(2, 50), rows_at_once=st.integers(1, 45), frozen=st.booleans(), seed=st.integers(0, 99))
def test_loss_of_the_head_in_slices(n: int, vocabulary: int, rows_at_once: int, frozen: bool, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)

    def leaf(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).requires_grad_()

    hidden, head = leaf(n, 7), leaf(vocabulary, 7)
    head.requires_grad_(not frozen)
    targets = torch.randint(0, vocabulary, (n,), generator=generator)
    weights = torch.rand(n, generator=generator)
    expected = (torch.nn.functional.cross_entropy(hidden @ head.t(), targets, reduction="none") * weights).sum() * 0.3
    wanted = torch.autograd.grad(expected, [hidden] if frozen else [hidden, head])
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(head_loss.SLICE_BYTES, "cpu", rows_at_once * vocabulary * 8)
        found = head_cross_entropy(hidden, head, targets, weights) * 0.3
        got = torch.autograd.grad(found, [hidden] if frozen else [hidden, head])
    assert found.item() == pytest.approx(expected.item(), rel=1e-12)
    for one, other in zip(got, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)


def test_a_batch_of_which_nothing_counts_is_refused(folder: Path) -> None:
    batch = sequences(1, 2, 8, packed=False)
    with pytest.raises(InputError, match="No token of this batch counts"):
        trained(folder, [replace(batch, weights=np.zeros_like(batch.weights))], 1)
