"""Layers that see a grid: what they compute is what the file will hold, and gradients reach what is trained."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

from trimtab.compress.grids import GRIDS, Codes, dequantize, quantize  # noqa: E402
from trimtab.core.errors import InputError  # noqa: E402
from trimtab.train.heal import fake_quant  # noqa: E402
from trimtab.train.heal.codes_file import NAME, read_codes, write_codes  # noqa: E402
from trimtab.train.heal.compensate import compensated  # noqa: E402

PLAIN = [name for name in GRIDS if not name.startswith("IQ")]


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Linear(256, 64)
        self.second = nn.Linear(64, 128, bias=False)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.second(torch.tanh(self.first(inputs)))


@pytest.mark.parametrize("grid", PLAIN)
def test_the_layer_computes_with_the_numbers_of_the_file(grid: str) -> None:
    model = Two()
    fake_quant.apply(model, grid, {"second": "keep"})
    layer = model.first
    inputs = torch.randn(3, 256)
    on_grid = layer(inputs)
    codes = fake_quant.bake(model)["first.weight"]
    assert type(model.first) is nn.Linear
    assert np.array_equal(dequantize(codes), model.first.weight.numpy())
    assert torch.equal(torch.addmm(model.first.bias, inputs, torch.from_numpy(dequantize(codes)).t()), model.first(inputs))
    assert torch.allclose(on_grid, model.first(inputs), atol=1e-6)


@pytest.mark.parametrize("grid", PLAIN)
def test_it_starts_where_plain_rounding_is(grid: str) -> None:
    model = Two()
    weight = model.first.weight.detach().numpy().copy()
    fake_quant.apply(model, grid, {"second": "keep"})
    ours, theirs = model.first.codes(), quantize(weight, grid)
    assert np.array_equal(ours.scales, theirs.scales)
    apart = np.abs(ours.levels.astype(int) - theirs.levels.astype(int))
    assert apart.max() <= 1  # the converter rounds by the scale before it was cut to 16 bits
    assert apart.mean() < 0.02


def test_gradients_go_straight_through_in_levels() -> None:
    model = Two()
    fake_quant.apply(model, "Q4_0", {"second": "keep"})
    layer = model.first
    inputs = torch.randn(5, 256)
    pull = torch.randn(5, 64)
    (layer(inputs) * pull).sum().backward()
    wanted = (pull.t() @ inputs).reshape(64, 8, 32) * layer.scales[..., None]
    assert torch.allclose(layer.weight.grad, wanted.reshape(64, 256), atol=1e-5)
    assert not model.second.weight.requires_grad
    assert not layer.bias.requires_grad


def test_float64_gradients_of_the_inputs_are_exact() -> None:
    model = Two().double()
    fake_quant.apply(model, "int4-asym-g64", {"second": "keep"})
    inputs = torch.randn(2, 256, dtype=torch.float64, requires_grad=True)
    model.first(inputs).sum().backward()
    values = torch.from_numpy(dequantize(model.first.codes())).double()
    assert torch.allclose(inputs.grad, values.sum(0).expand(2, -1), atol=1e-12)


def test_each_weight_has_its_own_grid() -> None:
    model = Two()
    found = fake_quant.apply(model, "int4-sym-g64", {r"second\.weight$": "Q4_1"})
    assert found == {"first.weight": "int4-sym-g64", "second.weight": "Q4_1"}
    assert model.second.grid.name == "Q4_1"


@pytest.mark.parametrize(
    ("grid", "tensors", "words"),
    [
        ("Q3_7", {}, "Unknown grid"),
        ("Q4_0", {"third": "keep"}, "no weight's name matches"),
        ("Q4_0", {"(": "keep"}, "not a regular expression"),
        ("Q4_0", {"first": "keep", "weight": "Q4_1"}, "different grids"),
        ("int4-sym-g128", {}, "not divided"),
    ],
)
def test_what_does_not_fit_is_refused_in_words(grid: str, tensors: dict[str, str], words: str) -> None:
    with pytest.raises(InputError, match=words):
        fake_quant.apply(Two(), grid, tensors)


def test_codes_come_back_from_their_file(tmp_path) -> None:
    codes: dict[str, Codes] = {}
    for number, grid in enumerate(PLAIN):
        codes[f"layer.{number}.weight"] = quantize(np.random.default_rng(number).standard_normal((8, 256)).astype(np.float32), grid)
    write_codes(tmp_path, codes)
    found = read_codes(tmp_path)
    assert found.keys() == codes.keys()
    for name, each in codes.items():
        assert np.array_equal(dequantize(each), dequantize(found[name]))
    (tmp_path / NAME).write_bytes((tmp_path / NAME).read_bytes()[:200])
    with pytest.raises(InputError, match="fresh"):
        read_codes(tmp_path)
    assert read_codes(tmp_path / "nowhere") == {}


@pytest.mark.parametrize("grid", ["Q4_0", "Q4_1", "int4-sym-g64", "int4-asym-g64"])
def test_compensated_rounding_beats_plain_rounding_on_correlated_inputs(grid: str) -> None:
    rng = np.random.default_rng(0)
    mixing = rng.standard_normal((128, 128)) * np.exp(rng.standard_normal(128))
    inputs = torch.from_numpy((rng.standard_normal((2048, 128)) @ mixing).astype(np.float32))
    product = inputs.t() @ inputs / len(inputs)
    weight = torch.from_numpy(rng.standard_normal((48, 128)).astype(np.float32))

    def error(values: np.ndarray) -> float:
        off = weight - torch.from_numpy(values)
        return float((off @ product * off).sum())

    wanted, codes = compensated(weight, grid, product)
    assert error(dequantize(codes)) < 0.75 * error(dequantize(quantize(weight.numpy(), grid)))
    model = nn.Sequential(nn.Linear(128, 48, bias=False))
    model[0].weight.data.copy_(wanted)
    fake_quant.apply(model, grid, start={"0.weight": codes})
    assert np.mean(model[0].codes().levels != codes.levels) < 0.002  # halves may fall either way
