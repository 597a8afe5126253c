"""Names and words: what must not stand in the project."""

import ast
import re
import subprocess
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "src" / "trimtab"

# Written so that this file does not contain what it looks for.
FORBIDDEN = {
    "a path of one machine": r"/(?:work|root|home)/(?!\w*\$)[a-z]",
    "a registry's host": r"pypi\.(?:org|python)|files\.python" + r"hosted|registry\.npmjs|deb\.debian|huggingface\.co(?!/docs)",
    "who or what wrote it": r"(?i)\b(?:ai|coding|llm)[ -](?:assistant|agent)s?\b|\bsub-?agents?\b|co-authored-by|anthropic|claude",
    "an issue's number": r"(?i)\bissue #?\d+\b",
    "work left open": r"\b(?:TO" + r"DO|FIX" + r"ME|XX" + r"X)\b",
}
BINARY = {".parquet", ".png", ".gguf", ".safetensors", ".gz", ".npz"}


def tracked() -> list[Path]:
    """The files of the project: what git has, or would have; in an unpacked archive, what lies in the project's folders."""
    try:
        listed = subprocess.run(
            ["git", "ls-files", "-z", "-co", "--exclude-standard"], cwd=ROOT, check=True, capture_output=True, text=True
        ).stdout
        paths = [ROOT / name for name in listed.split("\0") if name]
    except (OSError, subprocess.CalledProcessError):
        paths = [path for folder in ("src", "tests", "docs", "tools", "benchmarks", "examples") for path in (ROOT / folder).rglob("*")]
    return [path for path in paths if path.is_file() and path.suffix not in BINARY and path.name not in {"LICENSE", Path(__file__).name}]


@cache
def parsed() -> list[tuple[Path, list[ast.AST]]]:
    """Every file of the package with the nodes of its tree, read once for all tests."""
    return [(path, list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))) for path in SOURCE.rglob("*.py")]


@cache
def calls() -> list[tuple[str, str]]:
    """Every call in the package: where, and what is called."""
    return [
        (f"{path.relative_to(ROOT)}:{node.lineno}", ast.unparse(node.func))
        for path, nodes in parsed()
        for node in nodes
        if isinstance(node, ast.Call)
    ]


@pytest.mark.parametrize("what", FORBIDDEN)
def test_words_that_do_not_belong(what: str) -> None:
    pattern = re.compile(FORBIDDEN[what])
    found = []
    for path in tracked():
        for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
            if pattern.search(line):
                found.append(f"{path.relative_to(ROOT)}:{number}: {line.strip()[:100]}")
    assert found == []


def test_no_utils_and_no_managers() -> None:
    for path, nodes in parsed():
        assert not {"utils", "util", "helpers", "common", "misc"} & {part.removesuffix(".py") for part in path.relative_to(SOURCE).parts}, (
            path
        )
        for node in nodes:
            if isinstance(node, ast.ClassDef):
                assert not node.name.endswith(("Manager", "Helper", "Utils")), f"{path.name}: {node.name}"


@pytest.mark.parametrize("call", ["eval", "exec", "pickle.load", "pickle.loads", "torch.load", "yaml.load", "os.system"])
def test_nothing_executes_what_it_reads(call: str) -> None:
    assert [where for where, what in calls() if what == call] == []


def test_files_stay_readable() -> None:
    """A habit with a wall far behind it: about 400 lines a file, none over 600."""
    long = {
        str(path.relative_to(ROOT)): n for path in SOURCE.rglob("*.py") if (n := len(path.read_text(encoding="utf-8").splitlines())) > 600
    }
    assert long == {}
