"""Divergence from a teacher: its value, its gradient, and what a teacher remembers."""

import sys
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

sys.path.insert(0, str(Path(__file__).parent / "parts"))

from healing import tiny_model  # noqa: E402

from trimtab.core.errors import InputError  # noqa: E402
from trimtab.train.batch import MicroBatch  # noqa: E402
from trimtab.train.heal.distil import distil, head_divergence, top_divergence  # noqa: E402
from trimtab.train.heal.teacher import open_teacher  # noqa: E402
from trimtab.train.objectives import to_device  # noqa: E402

CPU = torch.device("cpu")


def plain(hidden, head, teacher_hidden, teacher_head, weights):
    theirs = torch.log_softmax(teacher_hidden @ teacher_head.t(), -1)
    own = torch.log_softmax(hidden @ head.t(), -1)
    return ((theirs.exp() * (theirs - own)).sum(-1) * weights).sum()


@pytest.fixture
def numbers():
    torch.manual_seed(0)
    hidden = torch.randn(7, 16, dtype=torch.float64, requires_grad=True)
    head = torch.randn(50, 16, dtype=torch.float64, requires_grad=True)
    return hidden, head, torch.randn(7, 8, dtype=torch.float64), torch.randn(50, 8, dtype=torch.float64), torch.rand(7, dtype=torch.float64)


def test_value_and_gradients_are_those_of_the_plain_way(numbers, monkeypatch) -> None:
    monkeypatch.setattr("trimtab.train.heal.distil.SLICE_BYTES", 3 * 50 * 8)  # three tokens a slice
    hidden, head, *rest = numbers
    ours = head_divergence(hidden, head, *rest)
    found = torch.autograd.grad(2 * ours, (hidden, head))
    theirs = plain(hidden, head, *rest)
    wanted = torch.autograd.grad(2 * theirs, (hidden, head))
    assert abs(ours.item() - theirs.item()) < 1e-12
    for one, other in zip(found, wanted, strict=True):
        assert torch.allclose(one, other, atol=1e-12)


def test_the_most_likely_tokens_bound_it_from_below_and_reach_it(numbers) -> None:
    hidden, head, teacher_hidden, teacher_head, weights = numbers
    theirs = torch.log_softmax(teacher_hidden @ teacher_head.t(), -1)
    whole = plain(*numbers).item()
    found = []
    for top_k in (4, 16, 49):
        top = theirs.topk(top_k, -1)
        found.append(top_divergence(hidden, head, top.indices, top.values, weights).item())
    assert found == sorted(found)
    assert found[0] < whole
    assert found[-1] == pytest.approx(whole, abs=1e-9)


def batch_of(ids: np.ndarray):
    positions = np.broadcast_to(np.arange(ids.shape[1]), ids.shape).copy()
    return to_device(
        MicroBatch(
            input_ids=ids,
            target_ids=np.roll(ids, -1, 1),
            weights=np.ones(ids.shape, np.float32),
            position_ids=positions,
            document_ids=np.zeros(ids.shape, np.int32),
        ),
        CPU,
    )


def test_a_teacher_is_asked_once_a_sequence(tmp_path: Path) -> None:
    _, reference = tiny_model(tmp_path)
    teacher = open_teacher(reference.root, "fp32", CPU)
    ids = np.arange(48).reshape(3, 16) % 40 + 5
    first = teacher.hidden(batch_of(ids))
    again = teacher.hidden(batch_of(ids[[2, 0]]))
    assert teacher.n_computed == 3
    assert torch.equal(again, first[[2, 0]])
    student = open_teacher(reference.root, "fp32", CPU).model
    for top_k in (0, 4):
        loss = distil(open_teacher(reference.root, "fp32", CPU), top_k=top_k)(student, batch_of(ids))
        assert abs(loss.item()) < 2e-3 * ids.size  # 16-bit log-probabilities
    small = open_teacher(reference.root, "fp32", CPU)
    small._room_bytes = first[0].nbytes
    small.hidden(batch_of(ids))
    small.hidden(batch_of(ids))
    assert small.n_computed == 6


def test_sixteen_bits_for_the_matrices_of_a_teacher(tmp_path: Path) -> None:
    _, reference = tiny_model(tmp_path)
    wide, narrow = (open_teacher(reference.root, precision, CPU) for precision in ("fp32", "bf16"))
    ids = np.arange(32).reshape(2, 16) + 5
    with torch.autocast("cpu", torch.bfloat16):
        found = narrow.hidden(batch_of(ids))
    assert found.dtype == torch.bfloat16
    assert torch.allclose(found.float(), wide.hidden(batch_of(ids)), atol=0.1)
    with pytest.raises(InputError, match="holds no config"):
        open_teacher(tmp_path, "fp32", CPU)
