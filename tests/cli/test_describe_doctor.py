"""describe and doctor on real things: a small GGUF made here, this machine, and the demo model where it is installed."""

import json
import re
from pathlib import Path

import gguf
import numpy as np
import pytest

import trimtab.engines.registry
from trimtab.cli.main import main
from trimtab.core.errors import MissingError
from trimtab.flows.describe import special_texts
from trimtab.flows.doctor import ROOM_BYTES, Check, Diagnosis, diagnose
from trimtab.sources.open import open_source, read_header

TEMPLATE = "{% for m in messages %}{{ bos_token }}{{ m['role'] }}: {{ m['content'] }}{% endfor %}"


@pytest.fixture(autouse=True)
def _own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRIMTAB_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.chdir(tmp_path)


def small_gguf(path: Path, template: str = TEMPLATE) -> Path:
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("Little one")
    writer.add_block_count(2)
    writer.add_context_length(128)
    writer.add_embedding_length(32)
    writer.add_feed_forward_length(64)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(["<begin>", "<end>", "a", "b"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    writer.add_chat_template(template)
    writer.add_tensor("token_embd.weight", np.zeros((4, 32), np.float16))
    for layer in range(2):
        for name, shape in (
            ("attn_q", (32, 32)),
            ("attn_k", (16, 32)),
            ("attn_v", (16, 32)),
            ("attn_output", (32, 32)),
            ("ffn_up", (64, 32)),
        ):
            writer.add_tensor(f"blk.{layer}.{name}.weight", np.zeros(shape, np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_describe_shows_card_layers_and_template(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["describe", str(small_gguf(tmp_path / "small.gguf")), "--html", "page.html"]) == 0
    out = capsys.readouterr().out
    for piece in ("Little one", "layers 0-1", "F16 x5", "golden conversations rendered", "page  page.html"):
        assert piece in out, piece
    page = (tmp_path / "page.html").read_text()
    assert "Little one" in page
    assert "<svg" in page or "data:image" in page
    assert not re.search(r"(?:src|href)=.?https?:|url\(.?https?:|@import", page), "the page needs nothing from elsewhere"


def test_describe_as_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["describe", str(small_gguf(tmp_path / "small.gguf")), "--json", "-q"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["schema"] == "trimtab.description/1"
    assert found["card"]["n_layers"] == 2
    assert found["base_differences"] is None
    assert found["template"]["renderings"][0]["text"].startswith("<begin>user: ")


def test_describe_compares_the_template_with_the_base(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    changed = small_gguf(tmp_path / "changed.gguf", TEMPLATE.replace("'role'] }}: ", "'role'] }}> "))
    base = small_gguf(tmp_path / "base.gguf")
    assert main(["describe", str(changed), "--base", str(base), "-q"]) == 0
    assert f"the template of {base} writes 'user' otherwise" in capsys.readouterr().out
    assert main(["describe", str(base), "--base", str(base), "-q"]) == 0
    assert f"the template of {base} writes the same" in capsys.readouterr().out


def test_special_tokens_of_a_model_that_tells_none(tmp_path: Path) -> None:
    path = small_gguf(tmp_path / "small.gguf")
    snapshot = open_source(str(path), cache_dir=tmp_path)
    header = read_header(snapshot)
    assert special_texts(header, snapshot) == ("<begin>", "<end>")
    for key in ("bos", "eos"):
        header.metadata.pop(f"tokenizer.ggml.{key}_token_id")  # type: ignore[attr-defined]
    assert special_texts(header, snapshot) == ("", "")


@pytest.mark.parametrize(
    ("make", "code"),
    [
        (lambda path: None, 2),
        (lambda path: path.write_bytes(b""), 2),
        (lambda path: path.write_bytes(b"GGUF" + bytes(4)), 2),
        (lambda path: path.mkdir(), 2),
        (lambda path: path.write_bytes(small_gguf(path.with_name("whole.gguf")).read_bytes()[:900]), 2),
    ],
    ids=["missing", "empty", "only a magic", "folder without weights", "truncated"],
)
def test_bad_models_are_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str], make, code: int) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path / "bad.gguf"
    make(path)
    assert main(["describe", str(path)]) == code
    out = capsys.readouterr()
    assert out.out == ""
    assert out.err.startswith("trimtab: ")
    assert out.err.count("\n") == 1
    assert "bad.gguf" in out.err


def test_doctor_names_machine_engines_and_folders(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = main(["doctor", "--json"])
    found = json.loads(capsys.readouterr().out)
    checks = {check["name"]: check for check in found["checks"]}
    assert {"cpu", "memory", "accelerators", "python", "engine llamacpp", "engine openvino", "cache folder"} <= set(checks)
    assert str(tmp_path / "home") in checks["cache folder"]["found"]
    assert all(check["found"] for check in checks.values())
    assert code == (0 if found["healthy"] else 3)


def test_doctor_without_engines_says_how_to_get_one(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def none(name: str) -> None:
        raise MissingError(f"No {name}.", f"pip install '{name}'")

    monkeypatch.setattr(trimtab.engines.registry, "engine_class", none)
    assert main(["doctor"]) == 3
    out = capsys.readouterr().out
    assert "pip install 'llamacpp'" in out
    assert "no engine works" in out


def test_doctor_minds_the_room_left(monkeypatch: pytest.MonkeyPatch) -> None:
    import shutil

    usage = type("Usage", (), {"free": ROOM_BYTES - 1})
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    checks = {check.name: check for check in diagnose().checks}
    assert checks["cache folder"].state == "missing"
    assert checks["cache folder"].fix


def test_only_what_is_missing_makes_it_ill() -> None:
    absent = Check(name="x", state="absent", found="no", fix="get it")
    assert Diagnosis(checks=(absent,)).healthy
    assert not Diagnosis(checks=(absent, Check(name="y", state="missing", found="no", fix="get it"))).healthy


@pytest.mark.model
@pytest.mark.slow
def test_engines_are_asked_how_they_write_conversations(demo_model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["describe", str(demo_model), "--engines", "--json", "-q"]) == 0
    engines = json.loads(capsys.readouterr().out)["engines"]
    assert engines["llamacpp"] == {"differences": [], "why": ""}
    # OpenVINO GenAI puts tools into the prompt of a template that has no place for them.
    assert {item["conversation"] for item in engines["openvino"]["differences"]} == {"tools", "tool result"}
