"""Engines by name: ours as lazy imports, others by the entry-point group `trimtab.engines`."""

from trimtab.core.plugins import Plugins
from trimtab.engines.base import CONTRACT_VERSION, Engine

SHIPPED = {
    "llamacpp": "trimtab.engines.llamacpp:LlamaCppEngine",
    "openvino": "trimtab.engines.openvino:OpenVinoEngine",
    "transformers": "trimtab.engines.transformers:TransformersEngine",
}
_ENGINES = Plugins(
    kind="engine",
    base=Engine,
    contract_version=CONTRACT_VERSION,
    shipped=SHIPPED,
    fix=lambda name: f"pip install 'trimtab[{name}]'",
)


def engine_names() -> list[str]:
    """All names that can be asked for, ours first."""
    return _ENGINES.names()


def engine_class(name: str) -> type[Engine]:
    """The class behind a name. Raises InputError for an unknown name, MissingError if its library is not installed."""
    found: type[Engine] = _ENGINES.load(name)
    return found
