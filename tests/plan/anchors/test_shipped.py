"""The fits that ship, and the published runs where they are at hand."""

import tomllib
from hashlib import sha256
from pathlib import Path

import pytest

from trimtab.core.errors import InputError
from trimtab.plan.anchors import fitted
from trimtab.plan.anchors.fitted import shipped
from trimtab.plan.anchors.published import SCHEMES, publisher
from trimtab.plan.anchors.scheme import UNITS

FOLDER = Path(fitted.__file__).parents[2] / "catalog" / "planner"
INDEX = tomllib.loads((FOLDER / "index.toml").read_text(encoding="utf-8"))["fits"]
DATA = Path(__file__).resolve().parents[4] / "shared" / "data" / "planner"


def test_every_quantity_has_a_fit_and_a_unit() -> None:
    assert set(SCHEMES) == set(INDEX) == set(UNITS)


@pytest.mark.parametrize("quantity", INDEX)
def test_a_fit_loads_and_is_small(quantity: str) -> None:
    data = (FOLDER / f"{quantity}.npz").read_bytes()
    assert len(data) < 500_000
    assert sha256(data).hexdigest() == INDEX[quantity]["sha256"]
    fit = shipped(quantity)
    assert fit is not None
    assert fit.quantity == quantity
    assert fit.residual.n_anchors == INDEX[quantity]["n_anchors"] == sum(fit.provenance["sources"].values())
    assert all(len(digest) == 64 for digest in fit.provenance["files"].values())


def test_the_scheme_of_a_fit_is_the_one_of_its_room() -> None:
    """Features that were renamed since would be taken for unknown: then the fits must be made again (benchmarks/planner_fit.py)."""
    for quantity, scheme in SCHEMES.items():
        fit = shipped(quantity)
        assert fit is not None
        assert fit.residual.basis.scheme == scheme, quantity


def test_a_file_that_was_changed_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "catalog" / "planner"
    folder.mkdir(parents=True)
    (folder / "index.toml").write_bytes((FOLDER / "index.toml").read_bytes())
    (folder / "tpot_ms.npz").write_bytes((FOLDER / "tpot_ms.npz").read_bytes() + b" ")
    monkeypatch.setattr(fitted.resources, "files", lambda _: tmp_path)
    shipped.cache_clear()
    try:
        with pytest.raises(InputError, match="digest differs"):
            shipped("tpot_ms")
    finally:
        shipped.cache_clear()


@pytest.mark.parametrize(
    ("told", "whose"),
    [
        ("github:NVIDIA/Megatron-LM@d98e8a64 README.md image", "github:NVIDIA/Megatron-LM"),
        ("arXiv:2205.01068; hours from elsewhere", "arXiv:2205.01068"),
        ("MLPerf v5.1 Inference", "MLPerf v5.1 Inference"),
        ("", ""),
    ],
)
def test_files_of_one_publisher_are_one_source(told: str, whose: str) -> None:
    assert publisher(told) == whose


@pytest.mark.skipif(not DATA.is_dir(), reason="the published runs are not at hand")
def test_the_fits_are_of_the_data_at_hand() -> None:
    """Files of these names with other contents: fit again."""
    for quantity in ("tpot_ms", "tok_s_per_device"):
        fit = shipped(quantity)
        assert fit is not None
        for name, digest in fit.provenance["files"].items():
            assert sha256((DATA / name).read_bytes()).hexdigest() == digest, name
