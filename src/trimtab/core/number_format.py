"""The number format in which transformers computes: a small file beside the weights, written by a recipe and read by the engine.

A recipe for that engine changes no weight on disk. Its product is the source's files with one more, and the engine rounds when it opens
them: the same rounding for scoring and for serving, since there is one model for both.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from trimtab.core.errors import InputError

FORMAT_FILE = "number_format.json"
DTYPES = ("float32", "bfloat16", "float16")
WEIGHTS = ("", "int8", "int4", "int3")
ACTIVATIONS = ("", "int8")
GROUP_SIZES = (32, 64, 128)


@dataclass(frozen=True, kw_only=True)
class NumberFormat:
    """dtype: of what is computed, "" = as config.json says; activations: "" = dtype, else with int8 weights, a scale for each token as it
    comes; group_size: weights that share a scale, of int4 only

    weights: of linear layers, "" = dtype; `int3` rounds all matrices but stores them in dtype: a planted loss of quality, no gain
    """

    dtype: str = ""
    weights: str = ""
    activations: str = ""
    group_size: int = 0

    def __post_init__(self) -> None:
        if self.dtype not in ("", *DTYPES) or self.weights not in WEIGHTS or self.activations not in ACTIVATIONS:
            raise InputError(
                f"{self.text} is no number format; dtype is one of {', '.join(DTYPES)}, weights int8, int4 or int3, activations int8."
            )
        if self.activations and self.weights != "int8":
            raise InputError("activations in int8 go with weights in int8.")
        if (self.weights == "int4") != bool(self.group_size) or (self.group_size and self.group_size not in GROUP_SIZES):
            raise InputError(f"group_size goes with weights in int4 and is one of {', '.join(map(str, GROUP_SIZES))}.")
        if self.weights and not self.dtype:
            raise InputError("weights in fewer bits need a dtype in which is computed.")

    @property
    def text(self) -> str:
        """`int4 g64, bfloat16`."""
        weights = f"{self.weights} g{self.group_size}" if self.group_size else self.weights
        return ", ".join(filter(None, (weights, self.activations and f"activations {self.activations}", self.dtype))) or "as shipped"

    def written(self) -> str:
        """The text of the file."""
        return json.dumps({"schema": 1, **asdict(self)}, indent=1, sort_keys=True) + "\n"


def read_format(folder: Path) -> NumberFormat:
    """The format that lies beside weights; as shipped where none does. Raises InputError for a file that is none."""
    path = folder / FORMAT_FILE
    if not path.is_file():
        return NumberFormat()
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        if values.pop("schema", None) != 1:
            raise ValueError("its schema is not 1")
        return NumberFormat(**values)
    except (OSError, ValueError, TypeError, AttributeError, InputError) as error:
        raise InputError(f"{path} tells no number format: {error}") from error
