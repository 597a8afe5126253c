"""Engines by name: ours as lazy imports, others by the entry-point group `trimtab.engines`."""

from trimtab.core.plugins import Plugins
from trimtab.engines.base import CONTRACT_VERSION, Engine
from trimtab.engines.interpreters import elsewhere, is_own, python_of

SHIPPED = {
    "ctranslate2": "trimtab.engines.ctranslate2:CTranslate2Engine",
    "llamacpp": "trimtab.engines.llamacpp:LlamaCppEngine",
    "openvino": "trimtab.engines.openvino:OpenVinoEngine",
    "ortgenai": "trimtab.engines.ortgenai:OrtGenAiEngine",
    "transformers": "trimtab.engines.transformers:TransformersEngine",
    "vllm": "trimtab.engines.vllm:VllmEngine",
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
    """The class behind a name, to be asked; one that runs under another interpreter tells the build found there.

    Raises InputError for an unknown name, MissingError if its library is not installed.
    """
    found = engine_here(name)
    python = python_of(name)
    return found if is_own(python) else elsewhere(found, name, python)


def engine_here(name: str) -> type[Engine]:
    """The class behind a name, to be opened in this process. Raises as `engine_class`."""
    found: type[Engine] = _ENGINES.load(name)
    return found
