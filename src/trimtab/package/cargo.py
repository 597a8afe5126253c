"""What every package carries, and what it is called in the folder that `trimtab import` makes of one again.

That folder is the folder of the run, with the weights as the engine opens them in `packed/`: `trimtab serve FOLDER/deploy.toml` needs no
more, and `trimtab export FOLDER` makes the same package of it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from trimtab.core.model import Snapshot
from trimtab.core.release import Serving

PACKED = "packed"
PACKED_DRAFT = "packed-draft"
LOCK = "deploy.toml"


@dataclass(frozen=True, kw_only=True)
class Cargo:
    """One judged deployment with its weights and its evidence.

    weights: what the engine opens, with its draft if it has one
    evidence: files of the run by their names there, deploy.toml among them
    made: when the lock was made, UTC, ISO 8601: what packages say of their time, so that one lock gives the same bytes twice
    revision: of the source, empty if it has none; licences: SPDX expressions, empty if unknown
    architecture, n_params, precision, quantization: of the weights, read from their header; precision such as `Q4_1` or `U8`
    keys: public keys by file name, with which its signatures are checked
    """

    serving: Serving
    weights: Snapshot
    evidence: Mapping[str, Path]
    made: str
    revision: str = ""
    licences: tuple[str, ...] = ()
    architecture: str = ""
    n_params: int = 0
    precision: str = ""
    quantization: str = ""
    keys: Mapping[str, bytes] = field(default_factory=dict)

    @property
    def version(self) -> str:
        """`3` of `support-chat@3`; of a lock that was not released, the first digits of the digest of its weights."""
        return self.serving.release_id.rpartition("@")[2] or self.serving.weights_sha256[:12]

    def weight_files(self) -> dict[str, tuple[Path, str]]:
        """Path and sha256 of each file of weights, by its name below the folder."""
        found = {f"{PACKED}/{one.name}": (self.weights.root / one.name, one.sha256) for one in self.weights.files}
        draft = self.weights.draft
        if draft is not None:
            found.update({f"{PACKED_DRAFT}/{one.name}": (draft.root / one.name, one.sha256) for one in draft.files})
        return found

    @property
    def size_bytes(self) -> int:
        """Of weights and evidence together."""
        return self.weights.size_bytes + sum(path.stat().st_size for path in self.evidence.values())
