"""open_source: every kind of path, digests, and one sentence for everything that is not a model."""

import hashlib
import json
import os
import time
from pathlib import Path

import pytest

from trimtab.core.errors import InputError
from trimtab.describe.card import model_card
from trimtab.sources import digests
from trimtab.sources.open import open_source, read_header
from trimtab.testing.tiny_models import write_safetensors_file, write_tiny_gguf, write_tiny_safetensors


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def openvino_folder(folder: Path, body: str = "", *, size: int = 64, bin_bytes: int = 64, head: str = '<?xml version="1.0"?>\n') -> Path:
    folder.mkdir()
    data = f'<data element_type="f16" shape="4, 8" offset="0" size="{size}" />'
    const = f'<layer id="1" name="w" type="Const" version="opset1">\n{data}\n</layer>'
    state = '<data variable_id="past.0.key" variable_type="f32" variable_shape="?,2,?,16" />'
    state += '<data variable_id="past.0.value" variable_type="f32" variable_shape="?,2,?,16" />'
    (folder / "openvino_model.xml").write_text(f'{head}<net name="m" version="11"><layers>{const}{state}{body}</layers></net>\n')
    (folder / "openvino_model.bin").write_bytes(bytes(bin_bytes))
    template = "{{ '&lt;|im_start|>' }}&#10;"
    (folder / "openvino_tokenizer.xml").write_text(f'<net><rt_info><chat_template value="{template}" /></rt_info></net>')
    return folder


def test_gguf_file_and_directory(tmp_path: Path, cache: Path) -> None:
    (tmp_path / "model").mkdir()
    path = write_tiny_gguf(tmp_path / "model" / "t.gguf")
    snapshot = open_source(str(path), cache_dir=cache)
    assert snapshot.path == path
    assert snapshot.files[0].sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert open_source(str(tmp_path / "model"), cache_dir=cache).digest == snapshot.digest
    assert read_header(snapshot).architecture == "llama"


def test_hugging_face_directory_by_folder_or_file(tmp_path: Path, cache: Path) -> None:
    folder = write_tiny_safetensors(tmp_path / "hf")
    (folder / "pytorch_model.bin").write_bytes(b"ignored beside safetensors")
    snapshot = open_source(str(folder), cache_dir=cache)
    assert snapshot.format == "safetensors"
    assert [file.name for file in snapshot.files] == ["model.safetensors", "config.json", "tokenizer_config.json"]
    assert open_source(str(folder / "model.safetensors"), cache_dir=cache).digest == snapshot.digest


def test_openvino_directory(tmp_path: Path, cache: Path) -> None:
    snapshot = open_source(str(openvino_folder(tmp_path / "ov")), cache_dir=cache)
    header = read_header(snapshot)
    assert snapshot.format == "openvino"
    assert snapshot.files[0].name == "openvino_model.bin"
    assert [(t.name, t.shape, t.type_name) for t in header.tensors] == [("w", (4, 8), "F16")]
    assert header.metadata["openvino_state"] == {"past.0.key": (-1, 2, -1, 16), "past.0.value": (-1, 2, -1, 16)}
    assert header.chat_template == "{{ '<|im_start|>' }}\n"


def test_projector_beside_the_model_belongs_to_it(tmp_path: Path, cache: Path) -> None:
    write_tiny_gguf(tmp_path / "t.gguf")
    write_as(tmp_path / "mmproj-t.gguf", "clip")
    snapshot = open_source(str(tmp_path), cache_dir=cache)
    assert [file.name for file in snapshot.files] == ["t.gguf", "mmproj-t.gguf"]
    assert len(read_header(snapshot).tensors) == 20


def write_as(path: Path, architecture: str, **numbers: int) -> Path:
    """A GGUF with one tensor and the given architecture and u32 keys."""
    import gguf
    import numpy as np

    writer = gguf.GGUFWriter(str(path), architecture)
    for key, value in numbers.items():
        writer.add_uint32(key.replace("__", "."), value)
    writer.add_tensor("x.weight", np.zeros((4, 32), dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.mark.parametrize(
    ("architecture", "numbers", "kind"),
    [
        ("bert", {}, "embedding"),
        ("nomic-bert", {}, "embedding"),
        ("qwen3", {"qwen3__pooling_type": 3}, "embedding"),
        ("qwen3", {"qwen3__pooling_type": 4}, "reranker"),
    ],
)
def test_embedding_and_reranker_gguf_are_refused_by_name(
    tmp_path: Path, cache: Path, architecture: str, numbers: dict[str, int], kind: str
) -> None:
    with pytest.raises(InputError, match=f"{kind}.*{architecture}"):
        open_source(str(write_as(tmp_path / "e.gguf", architecture, **numbers)), cache_dir=cache)


@pytest.mark.parametrize(
    ("config", "kind"),
    [
        ({"model_type": "bert", "architectures": ["BertModel"]}, "embedding model"),
        ({"model_type": "qwen3", "architectures": ["Qwen3ForSequenceClassification"]}, "reranker"),
        ({"model_type": "xlm-roberta", "architectures": ["XLMRobertaForMaskedLM"]}, "embedding model"),
    ],
)
def test_embedding_and_reranker_directories_are_refused_by_name(tmp_path: Path, cache: Path, config: dict[str, object], kind: str) -> None:
    with pytest.raises(InputError, match=kind):
        open_source(str(write_tiny_safetensors(tmp_path / "e", config=config)), cache_dir=cache)


def test_sentence_transformers_layout_is_refused(tmp_path: Path, cache: Path) -> None:
    folder = write_tiny_safetensors(tmp_path / "e")
    (folder / "config_sentence_transformers.json").write_text("{}")
    with pytest.raises(InputError, match="embedding model"):
        open_source(str(folder), cache_dir=cache)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "model.pth", "model.ckpt", "model.pkl"])
def test_pickled_weights_are_refused_with_the_fix(tmp_path: Path, cache: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"PK\3\4 archive/data.pkl")
    for spec in (tmp_path / name, tmp_path):
        with pytest.raises(InputError, match=f"{name} holds pickled weights.*safetensors"):
            open_source(str(spec), cache_dir=cache)


def test_a_pickle_under_another_name_is_refused(tmp_path: Path, cache: Path) -> None:
    (tmp_path / "weights.dat").write_bytes(b"\x80\x04\x95rest")
    with pytest.raises(InputError, match="pickled"):
        open_source(str(tmp_path / "weights.dat"), cache_dir=cache)


def bad_paths(tmp_path: Path) -> dict[str, tuple[str, str]]:
    (tmp_path / "empty").mkdir()
    (tmp_path / "zero.gguf").write_bytes(b"")
    (tmp_path / "note.txt").write_text("hello there, this is no model")
    (tmp_path / "two").mkdir()
    for name in ("a", "b"):
        write_tiny_gguf(tmp_path / "two" / f"{name}.gguf")
    write_tiny_safetensors(tmp_path / "mixed")
    write_tiny_gguf(tmp_path / "mixed" / "m.gguf")
    (tmp_path / "half").mkdir()
    (tmp_path / "half" / "openvino_model.xml").write_text("<net />")
    (tmp_path / "genai").mkdir()
    (tmp_path / "genai" / "genai_config.json").write_text("{}")
    (tmp_path / "configless").mkdir()
    (tmp_path / "configless" / "model.safetensors").write_bytes((tmp_path / "mixed" / "model.safetensors").read_bytes())
    return {
        "": ("", "No model was named"),
        "missing": (str(tmp_path / "nowhere.gguf"), "does not exist"),
        "unknown kind": ("ollama:llama3", "neither a path nor"),
        "zero": (str(tmp_path / "zero.gguf"), "0 bytes"),
        "empty folder": (str(tmp_path / "empty"), "holds no weights"),
        "onnx": (str(tmp_path / "genai"), "trimtab makes those itself"),
        "text": (str(tmp_path / "note.txt"), "not a model that trimtab reads"),
        "two": (str(tmp_path / "two"), "holds 2 GGUF files"),
        "mixed": (str(tmp_path / "mixed"), "several models"),
        "half": (str(tmp_path / "half"), "not openvino_model.bin"),
        "no config": (str(tmp_path / "configless"), "fetch config.json"),
    }


def test_everything_else_gets_one_sentence(tmp_path: Path, cache: Path) -> None:
    for name, (spec, expected) in bad_paths(tmp_path).items():
        with pytest.raises(InputError, match=expected) as caught:
            open_source(spec, cache_dir=cache)
        assert "\n" not in str(caught.value), name


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_no_permission(tmp_path: Path, cache: Path) -> None:
    path = write_tiny_gguf(tmp_path / "t.gguf")
    path.chmod(0)
    with pytest.raises(InputError, match="Permission denied"):
        open_source(str(path), cache_dir=cache)


def test_no_permission_is_one_sentence(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_tiny_gguf(tmp_path / "t.gguf")

    def refuse(*args: object, **kwargs: object) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(InputError, match="cannot be read \\(Permission denied\\)"):
        open_source(str(path), cache_dir=cache)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"size": 10_000}, "beyond the end"),
        ({"size": 2}, "larger than its 2 bytes"),
        ({"bin_bytes": 0, "size": 0}, "larger than its 0 bytes"),
        ({"head": '<?xml version="1.0"?><!DOCTYPE a [<!ENTITY b "c">]>'}, "declares a document type"),
        ({"body": "x" * 5000 + "</layers></net" + " " * 5000}, "not a whole OpenVINO model"),
    ],
)
def test_bad_openvino_directories(tmp_path: Path, cache: Path, change: dict[str, object], expected: str) -> None:
    folder = openvino_folder(tmp_path / "ov", **change)  # type: ignore[arg-type]
    if "body" in change:
        text = (folder / "openvino_model.xml").read_text()
        (folder / "openvino_model.xml").write_text(text.removesuffix("</layers></net>\n"))
    with pytest.raises(InputError, match=expected):
        open_source(str(folder), cache_dir=cache)


def test_digests_are_remembered_and_forgotten_with_the_file(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_tiny_gguf(tmp_path / "t.gguf")
    old = time.time() - 100
    os.utime(path, (old, old))
    first = open_source(str(path), cache_dir=cache).digest
    read: list[Path] = []
    monkeypatch.setattr(digests, "sha256_file", lambda p: read.append(p) or hashlib.sha256(p.read_bytes()).hexdigest())
    assert open_source(str(path), cache_dir=cache).digest == first
    assert not read
    write_tiny_gguf(path, seed=1)
    os.utime(path, (old + 1, old + 1))
    assert open_source(str(path), cache_dir=cache).digest != first
    assert len(read) == 1


def test_a_damaged_digest_note_is_not_believed(tmp_path: Path, cache: Path) -> None:
    path = write_tiny_gguf(tmp_path / "t.gguf")
    os.utime(path, (1e9, 1e9))
    first = open_source(str(path), cache_dir=cache).digest
    for note in (cache / "digests").iterdir():
        note.write_text("half")
    assert open_source(str(path), cache_dir=cache).digest == first


def test_a_cache_that_cannot_be_written_costs_only_time(tmp_path: Path) -> None:
    path = write_tiny_gguf(tmp_path / "t.gguf")
    os.utime(path, (1e9, 1e9))
    (tmp_path / "file").write_text("in the way")
    assert open_source(str(path), cache_dir=tmp_path / "file" / "cache").files


def test_pipes_and_devices_are_not_opened(tmp_path: Path, cache: Path) -> None:
    os.mkfifo(tmp_path / "pipe.gguf")
    for path in (tmp_path / "pipe.gguf", Path("/dev/zero")):
        with pytest.raises(InputError, match="not a file or a directory"):
            open_source(str(path), cache_dir=cache)


@pytest.mark.parametrize("spec", ["a\0b.gguf", "x" * 5000, "~nobody-of-that-name/m.gguf"])
def test_impossible_paths(cache: Path, spec: str) -> None:
    with pytest.raises(InputError):
        open_source(spec, cache_dir=cache)


def test_relative_paths_stay_right_in_another_folder(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_tiny_gguf(tmp_path / "t.gguf")
    monkeypatch.chdir(tmp_path)
    snapshot = open_source("t.gguf", cache_dir=cache)
    monkeypatch.chdir("/")
    assert read_header(snapshot).architecture == "llama"


def test_importance_matrices_are_named(tmp_path: Path, cache: Path) -> None:
    import gguf
    import numpy as np

    writer = gguf.GGUFWriter(str(tmp_path / "i.gguf"), "llama")
    writer.add_type("imatrix")
    writer.add_tensor("blk.0.attn_q.weight.counts", np.zeros((1, 1), dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(InputError, match="importance matrix"):
        open_source(str(tmp_path / "i.gguf"), cache_dir=cache)


def test_a_lone_adapter_directory_is_described_as_one(tmp_path: Path, cache: Path) -> None:
    tensors = {"base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight": ("BF16", (8, 64))}
    write_safetensors_file(tmp_path / "adapter_model.safetensors", tensors)
    (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 8, "base_model_name_or_path": "x/y"}))
    snapshot = open_source(str(tmp_path), cache_dir=cache)
    card = model_card(read_header(snapshot), snapshot)
    assert card.adapters == ("adapter_model.safetensors",)
    assert "rank 8" in card.notes[-1]


def test_config_with_a_text_part(tmp_path: Path, cache: Path) -> None:
    folder = write_tiny_safetensors(tmp_path / "v")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(
        json.dumps({"model_type": "mistral3", "text_config": {**config, "quantization_config": {"quant_method": "fp8"}}})
    )
    assert read_header(open_source(str(folder), cache_dir=cache)).quantization == "fp8"
