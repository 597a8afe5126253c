"""Checkpoints in one process: what comes back, what is kept, what damage does, and what a disk that refuses leaves behind."""

import json
import os
import pickle
import resource
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from trimtab.core.errors import InputError, MissingError
from trimtab.core.training import TrainCheckpoints
from trimtab.train import checkpoint_manifest as manifests
from trimtab.train.checkpoints import Checkpoints


class Run:
    """A small model, an optimizer, and steps on numbers that the step alone decides."""

    def __init__(self, folder: Path, *, seed: int = 0, width: int = 7, **choice: Any) -> None:
        torch.manual_seed(seed)
        self.folder = folder
        self.model = torch.nn.Sequential(
            torch.nn.Linear(5, width), torch.nn.LayerNorm(width), torch.nn.Dropout(0.1), torch.nn.Linear(width, 3)
        )
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-2)
        self.said: list[tuple[str, str]] = []
        self.checkpoints = Checkpoints(folder, TrainCheckpoints(**choice), rank=0, world=1, note=lambda *said: self.said.append(said))

    def step(self, number: int) -> None:
        given = torch.Generator().manual_seed(number)
        self.model(torch.randn(4, 5, generator=given)).square().mean().backward()
        self.optimizer.step()
        self.optimizer.zero_grad()

    def save(self, step: int) -> None:
        self.checkpoints.save(step, self.model, self.optimizer, {"tokens_seen": 100 * step, "left_out": [3]})

    def save_and_wait(self, step: int) -> None:
        self.save(step)
        self.checkpoints.wait()

    def train(self, first: int, last: int) -> None:
        for step in range(first, last + 1):
            self.step(step)
            self.save(step)
        self.checkpoints.wait()

    def load(self, **more: Any) -> tuple[int, dict[str, Any]] | None:
        return self.checkpoints.load_latest(self.model, self.optimizer, **more)

    def state(self) -> list[Any]:
        moments = [tensor for values in self.optimizer.state.values() for tensor in values.values()]
        return [tensor.clone() for tensor in (*self.model.state_dict().values(), *moments, torch.get_rng_state())]


def same(one: list[Any], other: list[Any]) -> bool:
    return len(one) == len(other) and all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def step_of(found: tuple[int, dict[str, Any]] | None) -> int:
    return found[0] if found else 0


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("background", [True, False])
def test_a_run_taken_up_is_the_run_that_went_on(tmp_path: Path, background: bool) -> None:
    run = Run(tmp_path, background=background)
    assert run.load() is None
    run.train(1, 3)
    at_three = run.state()
    for step in (4, 5):
        run.step(step)
    again = Run(tmp_path, seed=9)
    assert again.load() == (3, {"tokens_seen": 300, "left_out": [3]})
    assert same(again.state(), at_three)
    for step in (4, 5):
        again.step(step)
    assert same(again.state()[:-1], run.state()[:-1])  # dropout drew the same numbers


def test_what_is_trained_after_a_save_is_not_in_it(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.step(1)
    before = run.state()
    run.save(1)
    for step in range(2, 30):
        run.step(step)
    assert run.load() is not None
    assert same(run.state(), before)


def test_keep_newest(tmp_path: Path) -> None:
    run = Run(tmp_path, keep=3)
    run.train(1, 7)
    assert names(tmp_path) == ["step-00000005", "step-00000006", "step-00000007"]


def test_a_step_is_written_once(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.train(1, 2)
    written = (tmp_path / "step-00000002" / manifests.NAME).stat().st_mtime_ns
    run.save(2)
    run.checkpoints.wait()
    assert (tmp_path / "step-00000002" / manifests.NAME).stat().st_mtime_ns == written


def test_going_further_back_leaves_the_future_behind(tmp_path: Path) -> None:
    run = Run(tmp_path, keep=3)
    run.train(1, 3)
    assert run.load(before=3) is not None
    assert run.load(before=1) is None
    assert [name for name in names(tmp_path) if not name.startswith(".")] == ["step-00000001", "step-00000002"]
    run.train(3, 3)
    assert names(tmp_path) == ["step-00000001", "step-00000002", "step-00000003"]


def _flip(path: Path, at: int = 0) -> None:
    raw = bytearray(path.read_bytes())
    raw[at % len(raw)] ^= 1 << at % 8
    path.write_bytes(raw)


DAMAGE: dict[str, Callable[[Path], Any]] = {
    "removed": Path.unlink,
    "emptied": lambda path: path.write_bytes(b""),
    "cut": lambda path: os.truncate(path, path.stat().st_size - 1),
    "longer": lambda path: path.write_bytes(path.read_bytes() + b" "),
    "first bit": _flip,
    "middle bit": lambda path: _flip(path, path.stat().st_size // 2),
    "last bit": lambda path: _flip(path, path.stat().st_size - 1),
    "zeros": lambda path: path.write_bytes(bytes(path.stat().st_size)),
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    Run(folder, keep=2).train(1, 2)
    return folder


@pytest.mark.parametrize("file", [manifests.NAME, manifests.file_name(0)])
@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_newest_is_left_for_the_one_before(whole: Path, tmp_path: Path, file: str, damage: str) -> None:
    folder = tmp_path / "checkpoints"
    shutil.copytree(whole, folder)
    DAMAGE[damage](folder / "step-00000002" / file)
    run = Run(folder, seed=5)
    assert step_of(run.load()) == 1
    (kind, text), *_ = run.said
    assert kind == "fallback"
    assert all(told in text for told in ("step-00000002", "step-00000001", file))
    fresh = Run(tmp_path / "other")
    fresh.step(1)
    assert same(run.state()[:-1], fresh.state()[:-1])
    run.train(2, 2)
    assert names(folder) == ["step-00000001", "step-00000002"]
    assert step_of(Run(folder).load()) == 2


def test_all_damaged_is_an_error_and_changes_nothing(whole: Path, tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints"
    shutil.copytree(whole, folder)
    for path in folder.rglob("*.safetensors"):
        _flip(path, 900)
    run = Run(folder, seed=5)
    before = run.state()
    with pytest.raises(InputError, match=r"No checkpoint in .* is whole: step-00000002: process-00000.safetensors .*Remove the folder"):
        run.load()
    assert same(run.state(), before)
    assert names(folder) == names(whole)


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(keep=st.integers(1, 3), plan=st.lists(st.sampled_from(["save", "save", "damage", "load"]), min_size=3, max_size=9))
def test_the_newest_good_one_is_never_removed(tmp_path_factory: pytest.TempPathFactory, keep: int, plan: list[str]) -> None:
    folder = tmp_path_factory.mktemp("kept")
    run, at, good = Run(folder, keep=keep, background=False), 0, set[int]()
    for act in plan:
        if act == "save":
            at += 1
            run.save(at)
            good = {step for step in good | {at} if step in manifests.step_folders(folder)}
            assert at in good
        elif act == "damage" and good:
            newest = max(good)
            _flip(folder / manifests.folder_name(newest) / manifests.file_name(0), 700)
            good.discard(newest)
        elif act == "load" and good:
            run = Run(folder, keep=keep, background=False)
            at = step_of(run.load())
            assert at == max(good)
    assert all(step in manifests.step_folders(folder) for step in good)


def test_reading_a_checkpoint_runs_no_pickle(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "checkpoints"
    shutil.copytree(whole, folder)

    def refuse(*_: Any, **__: Any) -> Any:
        raise AssertionError("a pickle was read")

    for name in ("load", "loads", "Unpickler"):
        monkeypatch.setattr(pickle, name, refuse)
    monkeypatch.setattr(torch, "load", refuse)
    assert Run(folder).load() is not None
    assert {path.suffix for path in folder.rglob("*") if path.is_file()} == {".json", ".safetensors"}


def test_a_manifest_cannot_name_files_outside(whole: Path, tmp_path: Path) -> None:
    shutil.copytree(whole / "step-00000002", tmp_path / "step-00000002")
    path = tmp_path / "step-00000002" / manifests.NAME
    found = json.loads(path.read_text())
    found["body"]["files"][0][0] = "../../process-00000.safetensors"
    found["sha256"] = manifests.digest_of(found["body"])
    path.write_text(manifests.canonical_json(found))
    with pytest.raises(manifests.Damaged, match="names files that no checkpoint has"):
        manifests.read_manifest(path.parent)


def test_another_model_is_refused_and_untouched(whole: Path) -> None:
    for other, what in ((Run(whole, width=8), r"\[7, 5\] there, float32 \[8, 5\] here"), (Run(whole), "model.4.weight")):
        if what == "model.4.weight":
            other.model.append(torch.nn.Linear(3, 2))
            other.optimizer = torch.optim.AdamW(other.model.parameters())
        before = [tensor.clone() for tensor in other.model.state_dict().values()]
        with pytest.raises(InputError, match=what):
            other.load()
        assert same(list(other.model.state_dict().values()), before)


def test_sgd_and_frozen_and_tied(tmp_path: Path) -> None:
    def made(seed: int) -> tuple[Any, Any]:
        torch.manual_seed(seed)
        model = torch.nn.ModuleDict(
            {"embed": torch.nn.Embedding(6, 4), "head": torch.nn.Linear(4, 6, bias=False), "base": torch.nn.Linear(4, 4)}
        )
        model["head"].weight = model["embed"].weight
        model["base"].requires_grad_(False)
        return model, torch.optim.SGD([model["embed"].weight], lr=0.1)

    model, optimizer = made(0)
    checkpoints = Checkpoints(tmp_path, TrainCheckpoints(), rank=0, world=1, note=lambda *_: None)
    checkpoints.save(1, model, optimizer, {})
    checkpoints.wait()
    saved = manifests.read_manifest(tmp_path / "step-00000001").tensors
    assert sorted(name for name in saved if not name.startswith("rng.")) == ["model.embed.weight"]
    other, its = made(1)
    base = other["base"].weight.clone()
    assert checkpoints.load_latest(other, its) is not None
    assert same([other["head"].weight, other["base"].weight], [model["embed"].weight, base])


@contextmanager
def small_files(most_bytes: int) -> Iterator[None]:
    """The kernel refuses longer files, as a full disk does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("background", [True, False])
def test_a_disk_that_refuses(tmp_path: Path, background: bool) -> None:
    run = Run(tmp_path, background=background)
    run.train(1, 2)
    run.step(3)
    with (
        small_files(3000),
        pytest.raises(MissingError, match=r"step 3 was not written; whole ones of steps: 2, 1\. File too large.* make room at"),
    ):
        run.save_and_wait(3)
    assert names(tmp_path) == ["step-00000001", "step-00000002"]  # what was begun is gone
    run.step(4)
    run.save(4)  # with room again, the run goes on
    run.checkpoints.wait()
    assert names(tmp_path) == ["step-00000002", "step-00000004"]


def test_too_little_room_is_said_before_anything_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(tmp_path)
    run.train(1, 1)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(1, 1, 1))  # type: ignore[attr-defined]
    run.step(2)
    run.save(2)
    with pytest.raises(MissingError, match=r"takes [\d,]+ bytes and 1 are free\. Fix: make room at"):
        run.save(3)
    assert names(tmp_path) == ["step-00000001"]


def test_a_folder_that_nobody_may_write(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").write_text("a file where the folder should be")
    run = Run(tmp_path / "checkpoints")
    run.step(1)
    with pytest.raises(MissingError, match=r"step 1 was not written; whole ones of steps: none.*Not a directory"):
        run.save_and_wait(1)
