"""The command line's edges: every ending has its exit code and one sentence on stderr, and settings come in the promised order."""

import errno
import importlib.util
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from trimtab.cli.main import VERBS, main
from trimtab.core.errors import InfeasibleError, InputError, MissingError, TrimtabError
from trimtab.flows.events import Event

spec = importlib.util.spec_from_file_location("cli_decisions", Path(__file__).with_name("decisions.py"))
assert spec is not None
assert spec.loader is not None
decisions = importlib.util.module_from_spec(spec)
spec.loader.exec_module(decisions)

Flow = Callable[..., dict[str, Any]]


@pytest.fixture(autouse=True)
def _empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)  # what is found by TMPDIR is kept in it, and must not outlive the test
    for name in list(os.environ):
        if name.startswith("TRIMTAB_"):
            monkeypatch.delenv(name)


@pytest.fixture
def flow(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, Flow], None]:
    """Puts a function in the place of a verb's flow: the seam between the commands and the work."""

    def put(verb: str, function: Flow) -> None:
        stub = types.ModuleType(f"trimtab.flows.{verb}")
        setattr(stub, verb, function)
        monkeypatch.setitem(sys.modules, stub.__name__, stub)

    return put


def raising(error: BaseException) -> Flow:
    def run(*_: Any, **__: Any) -> dict[str, Any]:
        raise error

    return run


@pytest.mark.parametrize(("verdict", "code"), [("pass", 0), ("fail", 1), ("inconclusive", 4)])
def test_the_verdict_is_the_exit_code(
    flow: Callable[[str, Flow], None], capsys: pytest.CaptureFixture[str], verdict: str, code: int
) -> None:
    flow("compare", lambda *_, **__: decisions.decision(verdict))
    assert main(["compare", "a.gguf", "b.gguf", "--json"]) == code
    out = capsys.readouterr()
    assert json.loads(out.out)["verdict"] == verdict
    assert out.err == ""


@pytest.mark.parametrize(
    ("error", "code", "sentence"),
    [
        (InputError("x.gguf does not exist."), 2, "trimtab: x.gguf does not exist.\n"),
        (MissingError("No engine.", "pip install it"), 3, "trimtab: No engine. Fix: pip install it\n"),
        (InfeasibleError("It cannot run here."), 1, "trimtab: It cannot run here.\n"),
        (OSError(errno.ENOSPC, "No space left on device", "/full/x"), 3, "trimtab: The disk is full (/full/x). Fix: "),
        (OSError(errno.EACCES, "Permission denied", "/denied/x"), 2, "trimtab: Permission denied (/denied/x). "),
        (OSError(errno.ENOENT, "No such file", "gone"), 2, "trimtab: No such file or directory (gone). "),
        (MemoryError(), 3, "trimtab: There is not enough memory"),
        (KeyboardInterrupt(), 130, "trimtab: Interrupted. What was finished is kept in runs/model; run the same command again"),
    ],
)
def test_one_sentence_an_error(
    flow: Callable[[str, Flow], None], capsys: pytest.CaptureFixture[str], error: BaseException, code: int, sentence: str
) -> None:
    flow("optimize", raising(error))
    assert main(["optimize", "model.gguf"]) == code
    out = capsys.readouterr()
    said = out.err.removeprefix("\n")  # after the ^C that a terminal shows
    assert said.startswith(sentence)
    assert said.count("\n") == 1
    assert out.out == ""


@pytest.mark.parametrize(
    "error", [ValueError("odd\nsecond line"), TrimtabError("broken promise"), OSError(errno.EIO, "I/O error"), AssertionError()]
)
def test_a_bug_keeps_its_traceback_in_a_file(
    flow: Callable[[str, Flow], None], capsys: pytest.CaptureFixture[str], tmp_path: Path, error: Exception
) -> None:
    flow("optimize", raising(error))
    assert main(["optimize", "model.gguf"]) == 70
    sentence = capsys.readouterr().err
    assert sentence.count("\n") == 1
    assert "please report it with the file" in sentence
    kept = next(tmp_path.glob("trimtab-bug-*.txt")).read_text()
    assert "Traceback" in kept
    assert type(error).__name__ in kept
    assert main(["optimize", "model.gguf", "-v"]) == 70
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["optimise", "x"], "There is no verb 'optimise'; the verbs are describe, compare"),
        (["optimize"], "Missing argument 'MODEL'"),
        (["compare", "only-one"], "Missing argument 'B'"),
        (["optimize", "x", "--no-such"], "No such option"),
        (["optimize", "x", "--time-limit", "soon"], "'soon' is not a length of time; write it as 90s, 10m or 1h30m"),
        (["optimize", "x", "--seed", "-1"], "--seed"),
    ],
)
def test_wrong_usage(capsys: pytest.CaptureFixture[str], arguments: list[str], says: str) -> None:
    assert main(arguments) == 2
    err = capsys.readouterr().err
    assert says in err
    assert err.count("\n") == 1
    assert "--help`." in err


def test_no_verb_shows_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert "optimize" in capsys.readouterr().err
    assert main(["--help"]) == 0
    out = capsys.readouterr().out
    assert all(verb in out for verb in VERBS)


def seen_by(flow: Callable[[str, Flow], None], arguments: list[str]) -> dict[str, Any]:
    seen: dict[str, Any] = {}

    def run(model: str, **options: Any) -> dict[str, Any]:
        seen.update(options, model=model)
        return dict(decisions.decision())

    flow("optimize", run)
    assert main(["optimize", "m.gguf", *arguments]) == 0
    return seen


def test_what_the_flow_gets(flow: Callable[[str, Flow], None]) -> None:
    seen = seen_by(
        flow,
        [
            "--candidate",
            "a.gguf",
            "--candidate",
            "b.gguf",
            "--engine",
            "llamacpp, openvino",
            "--time-limit",
            "1h30m",
            "--fresh",
            "--offline",
            "--seed",
            "7",
        ],
    )
    assert seen["candidates"] == ("a.gguf", "b.gguf")
    assert seen["engines"] == ("llamacpp", "openvino")
    assert (seen["time_limit_s"], seen["fresh"], seen["offline"], seen["seed"]) == (5400.0, True, True, 7)
    assert (seen["workload"], seen["policy"], seen["suites"], seen["out"]) == ("chat", "standard", ("core",), Path("runs/m"))


def test_flag_before_environment_before_file(flow: Callable[[str, Flow], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pyproject.toml").write_text('[tool.trimtab]\npolicy = "from-pyproject"\n')
    assert seen_by(flow, [])["policy"] == "from-pyproject"
    (tmp_path / "trimtab.toml").write_text(
        'policy = "from-file"\nseed = 3\nsuite = "mine.jsonl"\n[optimize]\ntime-limit = "2m"\n[compare]\nseed = 4\n'
    )
    seen = seen_by(flow, [])
    assert (seen["policy"], seen["seed"], seen["time_limit_s"], seen["suites"]) == ("from-file", 3, 120.0, ("mine.jsonl",))
    monkeypatch.setenv("TRIMTAB_POLICY", "from-environment")
    assert seen_by(flow, [])["policy"] == "from-environment"
    assert seen_by(flow, ["--policy", "from-flag"])["policy"] == "from-flag"


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("polcy = 'strict'\n", "'polcy' is no option of any verb"),
        ("[optimize]\nno_timing = true\n", "'no_timing' in [optimize] is no option"),
        ("[optimise]\nseed = 1\n", "[optimise] is no verb"),
        ("seed = \n", "cannot be read"),
        ("seed = 'x'\n", "(set in"),
    ],
)
def test_a_wrong_settings_file_is_named(capsys: pytest.CaptureFixture[str], tmp_path: Path, content: str, says: str) -> None:
    (tmp_path / "trimtab.toml").write_text(content)
    assert main(["optimize", "m.gguf"]) == 2
    err = capsys.readouterr().err
    assert says in err
    assert err.count("\n") == 1
    assert "trimtab.toml" in err or str(tmp_path) in err


def test_a_wrong_environment_value_is_named(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRIMTAB_SEED", "many")
    assert main(["optimize", "m.gguf"]) == 2
    assert "TRIMTAB_SEED" in capsys.readouterr().err


def test_progress_goes_to_stderr_and_quiet_is_quiet(flow: Callable[[str, Flow], None], capsys: pytest.CaptureFixture[str]) -> None:
    def run(*_: Any, on_event: Callable[[Event], None], **__: Any) -> dict[str, Any]:
        on_event(Event(phase="screen", message="openvino int8", done=1, total=4, seconds_left=125.0))
        on_event(Event(phase="screen", message="too soon after", done=2, total=4))
        on_event(Event(phase="screen", message="last one", done=4, total=4))
        return dict(decisions.decision())

    flow("optimize", run)
    assert main(["optimize", "m.gguf"]) == 0
    out = capsys.readouterr()
    assert "screen  25%  openvino int8  (about 2 min 05 s left)" in out.err
    assert "last one" in out.err
    assert "too soon" not in out.err
    assert "screen  25%" not in out.out
    assert main(["optimize", "m.gguf", "-q"]) == 0
    assert capsys.readouterr().err == ""
    assert main(["optimize", "m.gguf", "-v"]) == 0
    assert "too soon" in capsys.readouterr().err


@pytest.mark.slow
def test_a_reader_that_stops_early_changes_nothing() -> None:
    script = f"""
import sys, types
sys.path.insert(0, {str(Path(__file__).parent)!r})
import decisions
stub = types.ModuleType("trimtab.flows.compare")
stub.compare = lambda *_, **__: decisions.decision("inconclusive") | {{"padding": ["x" * 100] * 5000}}
sys.modules[stub.__name__] = stub
from trimtab.cli.main import main
sys.exit(main(sys.argv[1:]))
"""
    for arguments in (["--json"], []):
        child = subprocess.Popen(
            [sys.executable, "-c", script, "compare", "a", "b", *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        assert child.stdout is not None
        assert child.stderr is not None
        child.stdout.close()
        assert child.stderr.read() == b""
        assert child.wait(timeout=60) == 4
        child.stderr.close()


def test_interrupting_the_process_says_how_to_go_on() -> None:
    script = """
import signal, sys, time, types
signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background of a shell starts with it ignored
stub = types.ModuleType("trimtab.flows.optimize")
def optimize(*_, **__):
    print("running", file=sys.stderr, flush=True)
    time.sleep(60)
stub.optimize = optimize
sys.modules[stub.__name__] = stub
from trimtab.cli.main import main
sys.exit(main(["optimize", "m.gguf", "--out", "here", "-q"]))
"""
    child = subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.PIPE, text=True)
    assert child.stderr is not None
    assert child.stderr.readline() == "running\n"
    time.sleep(0.1)
    child.send_signal(signal.SIGINT)
    assert (
        child.stderr.read()
        == "\ntrimtab: Interrupted. What was finished is kept in here; run the same command again and it goes on from there.\n"
    )
    assert child.wait(timeout=60) == 130
    child.stderr.close()


def test_compare_names_its_folder_by_both_sides(flow: Callable[[str, Flow], None]) -> None:
    folders = []

    def run(*_: Any, out: Path, **__: Any) -> dict[str, Any]:
        folders.append(str(out))
        return dict(decisions.decision())

    flow("compare", run)
    for b in ("openvino:models/m.gguf", "llamacpp:m.gguf?threads=1", "llamacpp:m.gguf?threads=2"):
        assert main(["compare", "models/m.gguf", b, "-q", "--json"]) == 0
    assert folders[0] == "runs/compare-m-openvino-m"
    assert folders[1].startswith("runs/compare-m-llamacpp-m-")
    assert len(set(folders)) == 3
