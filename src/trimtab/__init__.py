"""trimtab: find the fastest way to run an open model on your hardware that is shown to be no worse than the original.

The public Python API; see `trimtab.api`. Names are loaded when first used, so that `import trimtab` stays quick.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trimtab.api import (
        Flips,
        Gate,
        Model,
        Result,
        check,
        compare,
        describe_model,
        fairness,
        fairness_data,
        open,
        optimize,
        plan_fit,
        plan_serve,
        plan_train,
    )
    from trimtab.api_train import Trained, debias, finetune, heal
    from trimtab.core.errors import InfeasibleError, InputError, MissingError, TrimtabError

__all__ = [
    "Flips",
    "Gate",
    "InfeasibleError",
    "InputError",
    "MissingError",
    "Model",
    "Result",
    "Trained",
    "TrimtabError",
    "certify",
    "check",
    "compare",
    "debias",
    "describe_model",
    "evaluate_model",
    "fairness",
    "fairness_data",
    "finetune",
    "heal",
    "open",
    "optimize",
    "plan_fit",
    "plan_serve",
    "plan_train",
    "release",
    "release_history",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'trimtab' has no attribute {name!r}")
    from trimtab import api, api_train
    from trimtab.core import errors

    return next(getattr(place, name) for place in (api, api_train, errors) if hasattr(place, name))
