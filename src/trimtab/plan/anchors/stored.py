"""A fit as one file without rows: arrays (npz, no pickle) and a JSON head.

The precision of the weights is kept as its Cholesky factor in 16 bits, rows scaled to length 1, columns of levels first: then it is
mostly zeros, and whatever rounding does, it stays a precision.
"""

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from trimtab.core.errors import InputError
from trimtab.core.files import canonical_json
from trimtab.plan.anchors.conformal import Calibration
from trimtab.plan.anchors.residual import Residual, prior_of
from trimtab.plan.anchors.scheme import Basis, Block, Floats, Scheme, setting_key

VERSION = 1
ARRAYS = ("centre", "spread", "low", "high", "waves", "phases")
LEAST_FACTOR = 2e-3


@dataclass(frozen=True, kw_only=True)
class Published:
    """All that is kept of the published runs of one quantity.

    settings: keys of the settings that were measured (`scheme.setting_key`), sorted
    provenance: sources with their counts, digests of the files, date
    """

    quantity: str
    residual: Residual
    calibration: Calibration
    settings: npt.NDArray[np.uint64]
    provenance: Mapping[str, Any]

    def measured_at(self, setting: str) -> bool:
        """Whether a run at this very setting took part."""
        key = np.uint64(setting_key(setting))
        at = int(np.searchsorted(self.settings, key))
        return at < len(self.settings) and bool(self.settings[at] == key)


def to_bytes(fit: Published) -> bytes:
    """The file of a fit."""
    residual = fit.residual
    head = {
        "version": VERSION,
        "quantity": fit.quantity,
        "scheme": asdict(residual.basis.scheme),
        "levels": {group: list(levels) for group, levels in residual.basis.levels.items()},
        "inside_levels": {group: list(levels) for group, levels in residual.basis.inside_levels.items()},
        "blocks": [asdict(block) for block in residual.basis.blocks],
        "noise": residual.noise,
        "n_anchors": residual.n_anchors,
        "factors": fit.calibration.factors,
        "sizes": fit.calibration.sizes,
        "provenance": fit.provenance,
    }
    order = _order(residual.basis)
    matrix = residual.precision + np.diag(1 / prior_of(residual.basis, residual.variances))
    root = np.linalg.cholesky(matrix[np.ix_(order, order)])
    scale = np.linalg.norm(root, axis=1)
    unit = root / scale[:, None]
    unit[np.abs(unit) < LEAST_FACTOR * np.diag(unit)[:, None]] = 0.0
    below = np.tril_indices(len(order))
    buffer = io.BytesIO()
    np.savez_compressed(
        buffer,
        head=np.frombuffer(canonical_json(head).encode(), dtype=np.uint8),
        factor=unit[below].astype(np.float16),
        scale=scale,
        weights=residual.weights,
        variances=residual.variances,
        settings=fit.settings,
        **{name: getattr(residual.basis, name) for name in ARRAYS},
    )
    return buffer.getvalue()


def from_bytes(data: bytes, name: str = "the fit") -> Published:
    """A fit from its file. Raises `InputError` for anything else, and for a later version."""
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            found = {key: arrays[key] for key in arrays.files}
        head = json.loads(found["head"].tobytes())
        if head["version"] != VERSION:
            raise InputError(
                f"{name} has form {head['version']}, this trimtab reads form {VERSION}; use the planner files of this release."
            )
        return _rebuilt(head, found)
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"{name} is no fit of the planner ({type(error).__name__}); install trimtab again.") from None


def _rebuilt(head: Mapping[str, Any], found: Mapping[str, npt.NDArray[Any]]) -> Published:
    told = head["scheme"]
    scheme = Scheme(
        groups=tuple(told["groups"]),
        numbers=tuple(told["numbers"]),
        inside={group: tuple(names) for group, names in told["inside"].items()},
        waves_over=tuple(told["waves_over"]),
        n_waves=told["n_waves"],
        noise_by=told["noise_by"],
    )
    basis = Basis(
        scheme=scheme,
        levels=_numbered(head["levels"]),
        inside_levels=_numbered(head["inside_levels"]),
        blocks=tuple(Block(**block) for block in head["blocks"]),
        **{name: found[name] for name in ARRAYS},
    )
    residual = Residual(
        basis=basis,
        variances=found["variances"],
        precision=_precision(basis, found),
        weights=found["weights"],
        noise=head["noise"],
        n_anchors=head["n_anchors"],
    )
    return Published(
        quantity=head["quantity"],
        residual=residual,
        calibration=Calibration(head["factors"], head["sizes"]),
        settings=found["settings"],
        provenance=head["provenance"],
    )


def _precision(basis: Basis, found: Mapping[str, npt.NDArray[Any]]) -> Floats:
    """What the data alone say of the weights, from the factor of the whole."""
    order = _order(basis)
    root = np.zeros((len(order), len(order)))
    root[np.tril_indices(len(order))] = found["factor"]
    root *= found["scale"][:, None]
    matrix = np.zeros_like(root)
    matrix[np.ix_(order, order)] = root @ root.T
    return matrix - np.diag(1 / prior_of(basis, found["variances"]))


def _order(basis: Basis) -> npt.NDArray[np.intp]:
    """Columns of many levels first, those of every row last."""
    blocks = sorted(basis.blocks, key=lambda block: -block.n_levels)
    return np.concatenate([np.arange(block.start, block.stop) for block in blocks])


def _numbered(levels: Mapping[str, Sequence[str]]) -> dict[str, dict[str, int]]:
    return {group: {level: at for at, level in enumerate(names)} for group, names in levels.items()}
