"""The script and the notebook run as they stand, on tiny models: the notebook's cells one by one inside a running event loop."""

import ast
import asyncio
import json
import runpy
from functools import partial

import pytest

pytest.importorskip("llama_cpp")

import trimtab as tt
from trimtab.testing.tiny_models import write_tiny_gguf

pytestmark = [pytest.mark.model, pytest.mark.slow]

WORDS = ("the", "small", "boat", "turned", "slowly", "into", "wind", "and", "old", "sailor", "watched", "water", "near", "shore")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """What the notebook asks for beside it."""
    root = tmp_path_factory.mktemp("beside")
    write_tiny_gguf(root / "model-f16.gguf", architecture="qwen2", weight_type="F16", seed=1)
    write_tiny_gguf(root / "model-q8_0.gguf", architecture="qwen2", weight_type="Q8_0", seed=1)
    rows = [{"text": " ".join(WORDS[(n * 5 + k * (1 + n % 3)) % len(WORDS)] for k in range(24))} for n in range(30)]
    (root / "mine.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return root


@pytest.fixture(scope="module", autouse=True)
def own_state(tmp_path_factory):
    """Both runs share what they know, and use one thread: on a busy machine more of them wait for each other at every tiny matrix."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tt, "open", partial(tt.open, threads=1))
        patch.setenv("TRIMTAB_HOME", str(tmp_path_factory.mktemp("state")))
        yield


def run_cell(source, names):
    """What a kernel does with a cell: run it, and give back its last expression's value."""
    body = ast.parse(source).body
    last = ast.Expression(body.pop().value) if isinstance(body[-1], ast.Expr) else None
    exec(compile(ast.Module(body, []), "cell", "exec"), names)
    return eval(compile(last, "cell", "eval"), names) if last else None


def test_notebook_is_small_valid_and_without_outputs(examples):
    text = (examples / "compare.ipynb").read_text(encoding="utf-8")
    notebook = json.loads(text)
    assert len(text) < 5000
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    assert len({cell["id"] for cell in notebook["cells"]}) == len(notebook["cells"])
    for cell in notebook["cells"]:
        assert cell["cell_type"] in ("markdown", "code")
        assert all(isinstance(line, str) for line in cell["source"])
        if cell["cell_type"] == "code":
            assert cell["outputs"] == []
            assert cell["execution_count"] is None


def test_notebook_runs_cell_by_cell_inside_an_event_loop(examples, folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    cells = [
        "".join(cell["source"])
        for cell in json.loads((examples / "compare.ipynb").read_text(encoding="utf-8"))["cells"]
        if cell["cell_type"] == "code"
    ]
    names = {"__name__": "__main__"}

    async def kernel():
        shown = [run_cell(cell, names) for cell in cells[:-1]]
        # Random weights cannot be shown to be good: no planted fault makes them worse, and the last cell says so.
        with pytest.raises(AssertionError, match=r"Cannot tell whether .* is no worse"):
            run_cell(cells[-1], names)
        return shown

    shown = asyncio.run(kernel())
    assert [value._repr_html_()[:15] for value in shown if hasattr(value, "_repr_html_")] == ["<iframe srcdoc="]
    assert "mine" in capsys.readouterr().out
    assert (folder / "runs" / "notebook" / "report.html").stat().st_size > 10_000
    gate = next(gate for gate in names["result"].gates if gate.name == "mine")
    assert not gate.informative
    assert abs(gate.delta) < 0.01


def test_script_says_the_same_and_leaves_a_report(examples, folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    monkeypatch.setattr(tt, "compare", partial(tt.compare, timing=False))
    script = runpy.run_path(str(examples / "compare_two_files.py"))
    with pytest.raises(AssertionError, match=r"Cannot tell whether .* is no worse"):
        script["main"]("model-f16.gguf", "model-q8_0.gguf", "mine.jsonl")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("mine ")
    assert (folder / lines[-1]).name == "report.html"
    assert (folder / lines[-1]).exists()


def test_script_asks_for_two_files(examples, monkeypatch):
    monkeypatch.setattr("sys.argv", ["compare_two_files.py", "one.gguf"])
    with pytest.raises(SystemExit, match="Give two model files"):
        runpy.run_path(str(examples / "compare_two_files.py"), run_name="__main__")
