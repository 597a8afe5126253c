"""A tiny candidate is healed: the divergence falls, the exported file holds the trained weights, and a killed healing goes on."""

import signal
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("llama_cpp")

sys.path.insert(0, str(Path(__file__).parent / "parts"))

from healing import packed, text_file, tiny_model  # noqa: E402

from trimtab.compress.base import load_recipes, make  # noqa: E402
from trimtab.core.errors import InfeasibleError, StoppedError  # noqa: E402
from trimtab.core.training import (  # noqa: E402
    TrainCheckpoints,
    TrainConfig,
    TrainData,
    TrainLayout,
    TrainModel,
    TrainObjective,
    TrainOptimizer,
    TrainRun,
)
from trimtab.flows.parts.heal_student import Student, is_exact, student_of, write_healed  # noqa: E402
from trimtab.sources.open import open_source  # noqa: E402
from trimtab.testing.tiny_models import write_tiny_gguf  # noqa: E402
from trimtab.train.heal.codes_file import read_codes  # noqa: E402
from trimtab.train.heal.divergence import divergences  # noqa: E402
from trimtab.train.heal.start import first_sequences, write_start  # noqa: E402
from trimtab.train.schedules import lr_at  # noqa: E402
from trimtab.train.worker import run  # noqa: E402

SEQ_TOKENS = 64


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """Folder, student, reference and the directory that the training begins at."""
    folder = tmp_path_factory.mktemp("heal")
    source, reference = tiny_model(folder)
    text = text_file(folder / "text.txt")
    student = student_of(packed(source, folder), reference.root)
    write_start(
        reference.root,
        folder / "start",
        grids=student.grids,
        kept=student.kept,
        sequences=first_sequences(reference.root, [str(text)], SEQ_TOKENS, 16),
    )
    return folder, student, reference.root


def config_of(folder: Path, student: Student, reference: Path, *, start: Path | None = None, steps: int = 40) -> TrainConfig:
    return TrainConfig(
        model=TrainModel(source=str(start or folder / "start"), grid=student.grid),
        data=TrainData(files=(str(folder / "text.txt"),), mask_documents=False),
        train=TrainRun(seq_tokens=SEQ_TOKENS, global_batch_seqs=4, micro_batch_seqs=4, steps=steps),
        optimizer=TrainOptimizer(lr=0.02, clip_norm=0.0, warmup_steps=2),
        layout=TrainLayout(zero_stage=0),
        objective=TrainObjective(kind="distil", teacher=str(reference)),
        checkpoint=TrainCheckpoints(every_steps=10, background=False),
    )


def test_a_healed_candidate_is_nearer_its_reference_at_the_same_bits(tiny) -> None:
    folder, student, reference = tiny
    result = run(config_of(folder, student, reference), folder / "run")
    model = folder / "run" / result.model
    healed = write_healed(student, read_codes(model), folder / "healed")
    assert healed.stat().st_size == pytest.approx(student.base.path.stat().st_size, rel=0.01)
    assert is_exact(student, healed, model)

    held_out = first_sequences(reference, [str(text_file(folder / "other.txt", 4000))], SEQ_TOKENS, 8)
    write_start(reference, folder / "naive", grids={}, kept=_dequantized(student), sequences=held_out)
    naive = np.mean(divergences(reference, folder / "naive", held_out))
    before = np.mean(divergences(reference, folder / "start", held_out))
    after = np.mean(divergences(reference, model, held_out))
    assert after < 0.5 * naive
    assert after < before


def test_one_changed_level_is_noticed(tiny) -> None:
    folder, student, _ = tiny
    codes = read_codes(folder / "start")
    write_healed(student, codes, folder / "whole")
    name = next(iter(codes))
    levels = codes[name].levels.copy()
    levels[0, 0] = -levels[0, 0] - 1
    changed = write_healed(student, {**codes, name: replace(codes[name], levels=levels)}, folder / "changed")
    baked = folder / "baked"
    _write_model(baked, student, codes)
    assert is_exact(student, folder / "whole" / changed.name, baked)
    assert not is_exact(student, changed, baked)


def test_a_stopped_healing_goes_on_to_the_same_weights(tiny, monkeypatch) -> None:
    folder, student, reference = tiny
    config = config_of(folder, student, reference, steps=12)
    run(config, folder / "whole-run")

    def stopping(step: int, total: int, choice: TrainOptimizer) -> float:
        if step == 5:
            signal.raise_signal(signal.SIGTERM)
        return lr_at(step, total, choice)

    monkeypatch.setattr("trimtab.train.worker.lr_at", stopping)
    with pytest.raises(StoppedError):
        run(config, folder / "stopped")
    monkeypatch.undo()
    result = run(config, folder / "stopped")
    assert result.resumed == 1
    first, second = (read_codes(folder / name / "model") for name in ("whole-run", "stopped"))
    for name, codes in first.items():
        assert np.array_equal(codes.levels, second[name].levels)


def test_a_candidate_on_no_grid_is_refused(tmp_path: Path) -> None:
    source, reference = tiny_model(tmp_path)
    with pytest.raises(InfeasibleError, match="lies on a grid"):
        student_of(packed(source, tmp_path, "F16"), reference.root)


def _dequantized(student: Student) -> dict[str, np.ndarray]:
    """The candidate's own numbers by Hugging Face name."""
    from trimtab.flows.parts.heal_student import read_back

    return {**student.kept, **read_back(student, student.base.path)}


def _write_model(folder: Path, student: Student, codes) -> None:
    from safetensors.numpy import save_file

    from trimtab.compress.grids import dequantize

    folder.mkdir()
    save_file({name: dequantize(each) for name, each in codes.items()}, folder / "model.safetensors")


@pytest.mark.model
@pytest.mark.slow
def test_an_openvino_candidate_keeps_its_form_and_holds_the_trained_weights(tmp_path: Path) -> None:
    pytest.importorskip("openvino_genai")
    pytest.importorskip("nncf")
    path = write_tiny_gguf(tmp_path / "tiny.gguf", hidden_size=128, feed_forward_size=256)
    source = open_source(str(path), cache_dir=tmp_path / "cache", offline=True)
    products = tmp_path / "products"
    recipes = {recipe.name: recipe for recipe in load_recipes()}
    reference = make(recipes["huggingface-fp32"], source, products)
    student = student_of(make(recipes["openvino-int4-sym-g64"], source, products), reference.root)
    assert student.grid == "int4-sym-g64"
    sequences = first_sequences(reference.root, [str(text_file(tmp_path / "text.txt", 3000))], SEQ_TOKENS, 4)
    write_start(reference.root, tmp_path / "start", grids=student.grids, kept=student.kept, sequences=sequences)
    result = run(config_of(tmp_path, student, reference.root, steps=3), tmp_path / "run")
    healed = write_healed(student, read_codes(tmp_path / "run" / result.model), tmp_path / "healed")
    assert is_exact(student, healed, tmp_path / "run" / result.model)
    assert {file.name for file in healed.iterdir()} >= {"openvino_model.xml", "openvino_model.bin", "openvino_tokenizer.xml"}
