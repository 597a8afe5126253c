"""The import law: only downward, rooms of one layer never import each other, heavy libraries are imported inside functions."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2] / "src" / "trimtab"

LAYERS = {
    "core": 0.0,
    "stats": 0.5,
    **dict.fromkeys(("describe", "plan", "decide"), 1.0),
    **dict.fromkeys(("sources", "compress", "engines", "guard", "record", "package"), 2.0),
    **dict.fromkeys(("measure", "evaluate", "train", "serve", "watch", "cluster"), 3.0),
    "flows": 4.0,
    "api_train": 4.4,
    "api": 4.5,
    "__init__": 4.6,
    "web": 4.8,
    **dict.fromkeys(("cli", "bridges"), 5.0),
    "__main__": 6.0,
}
TESTING_MAY_IMPORT = {"core", "engines", "guard", "serve", "testing"}

# Libraries whose import is felt, and the rooms whose files may import them at module level: leaf files that are themselves
# imported inside functions. The start-up test holds the sum of it.
HEAVY = {
    "llama_cpp": {"engines", "compress"},
    "llguidance": {"engines"},
    "openvino": {"engines", "compress"},
    "openvino_genai": {"engines", "compress"},
    "nncf": {"compress"},
    "onnxruntime_genai": {"engines"},
    "ctranslate2": {"engines", "compress"},
    "scipy": {"stats", "decide"},
    "matplotlib": set(),
    "pyarrow": set(),
    "huggingface_hub": set(),
    "torch": {"engines", "compress", "train"},
    "transformers": {"engines", "compress", "train"},
    "torchao": {"engines", "compress", "train"},
    "vllm": {"engines"},
    "peft": {"train"},
    "ray": {"serve"},  # its router only, which Ray loads; elsewhere in functions, of a process that speaks to a cluster
    "starlette": {"serve", "web"},
    "aiohttp": {"serve"},
    "uvicorn": {"serve", "web"},
    "msgspec": {"serve", "record", "watch"},
    "datasketches": set(),
    "py3langid": set(),
    "river": set(),
    "cryptography": {"record"},
    "sqlalchemy": {"record"},
    "securesystemslib": {"record"},
    "model_signing": {"record"},
    "fsspec": {"record"},
}


def files() -> list[Path]:
    return sorted(ROOT.rglob("*.py"))


def room_of(path: Path) -> str:
    """`engines` of src/trimtab/engines/base.py, `api` of src/trimtab/api.py."""
    first = path.relative_to(ROOT).parts[0]
    return first.removesuffix(".py")


def imported(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """(full module name, line) of each import below a node. `from trimtab.x import y` may name a file: both are given."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node.lineno
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                yield "." * node.level, node.lineno
            elif node.module:
                for alias in node.names:
                    yield f"{node.module}.{alias.name}", node.lineno


def module_level(tree: ast.Module) -> Iterator[tuple[str, int]]:
    """Imports that run when the file is imported: not those inside functions, nor those for type checkers only."""
    pending: list[ast.AST] = [*tree.body]
    while pending:
        node = pending.pop()
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            continue
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            continue
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            yield from imported(node)
        pending.extend(ast.iter_child_nodes(node))


def rooms_used(tree: ast.AST) -> Iterator[tuple[str, int]]:
    for name, line in imported(tree):
        parts = name.split(".")
        if parts[0] == "trimtab" and len(parts) > 1:
            yield (parts[1] if (ROOT / parts[1]).is_dir() or (ROOT / f"{parts[1]}.py").exists() else "__init__"), line


def breaches(room: str, tree: ast.AST) -> list[str]:
    """What a file of `room` imports against the law."""
    found = []
    for other, line in rooms_used(tree):
        if room == "testing":
            wrong = other not in TESTING_MAY_IMPORT
        elif other == "testing":
            wrong = True
        else:
            wrong = other != room and LAYERS[other] >= LAYERS[room]
        if wrong:
            found.append(f"line {line}: {room} imports {other}")
    return found


def test_every_room_has_a_layer() -> None:
    assert {room_of(path) for path in files()} - set(LAYERS) == {"testing"}


@pytest.mark.parametrize("path", files(), ids=lambda path: str(path.relative_to(ROOT)))
def test_only_downward(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert breaches(room_of(path), tree) == []
    assert [line for name, line in imported(tree) if name.startswith(".")] == [], "imports are written in full"


@pytest.mark.parametrize("path", sorted((ROOT / "core").glob("*.py")), ids=lambda path: path.name)
def test_core_is_standard_library_only(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    foreign = {name.split(".")[0] for name, _ in imported(tree)} - set(sys.stdlib_module_names) - {"trimtab"}
    assert foreign == set()


@pytest.mark.parametrize("path", files(), ids=lambda path: str(path.relative_to(ROOT)))
def test_heavy_libraries_load_late(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    early = [
        f"line {line}: {name}" for name, line in module_level(tree) if room_of(path) not in HEAVY.get(name.split(".")[0], {room_of(path)})
    ]
    assert early == []


def test_no_flow_imports_another() -> None:
    """Verbs are joined by the rooms below them. What flows share has no verb of its own."""
    verbs = {path.stem for path in (ROOT / "cli").glob("*.py")} & {path.stem for path in (ROOT / "flows").glob("*.py")} - {"__init__"}
    for path in (ROOT / "flows").glob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        used = {name.split(".")[2] for name, _ in imported(tree) if name.startswith("trimtab.flows.")}
        assert not (used & verbs - {path.stem}), path.name


@pytest.mark.parametrize(
    ("room", "source", "n_breaches"),
    [
        ("core", "import trimtab.engines.base", 1),
        ("sources", "from trimtab.engines import registry", 1),
        ("plan", "from trimtab.describe.card import model_card", 1),
        ("engines", "from trimtab import core", 0),
        ("flows", "def f():\n    from trimtab.cli.main import main", 1),
        ("measure", "from trimtab.engines.base import Engine", 0),
        ("testing", "from trimtab.flows import events", 1),
        ("flows", "from trimtab.testing import fake_engine", 1),
        ("cli", "import trimtab", 0),
    ],
)
def test_the_law_is_seen_to_be_broken(room: str, source: str, n_breaches: int) -> None:
    assert len(breaches(room, ast.parse(source))) == n_breaches
