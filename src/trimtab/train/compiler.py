"""Whether torch.compile can work where it is asked for."""

import os
import shutil

import torch

from trimtab.core.errors import MissingError


def need_compiler(what: str, device: torch.device) -> None:
    """Raises MissingError where `what` is compiled for a processor and there is no C++ compiler. For CUDA, torch brings its own."""
    if device.type == "cpu" and not any(shutil.which(name) for name in (os.environ.get("CXX", ""), "g++", "clang++") if name):
        raise MissingError(
            f"{what} compiles its operators for this processor, which needs a C++ compiler.", "install g++, or do without it"
        )
