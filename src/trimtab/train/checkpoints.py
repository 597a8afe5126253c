"""Checkpoints of a run: written behind the training, whole or absent, loaded on any number of processes.

Guarantees (docs/train-checkpoints.md): a folder with a checkpoint's name holds all of it, whenever the run was killed; a damaged one is
never loaded, the one before is; the newest good one is never removed.
"""

import errno
import shutil
import warnings
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner, DefaultSavePlanner
from torch.distributed.checkpoint.staging import DefaultStager, StagingOptions
from torch.optim import Optimizer

from trimtab.core.errors import InputError, MissingError, TrimtabError
from trimtab.core.training import TrainCheckpoints
from trimtab.train.checkpoint_manifest import Damaged, Manifest, check_contents, check_sizes, folder_name, step_folders
from trimtab.train.checkpoint_state import has_dropout, load_repacked, refuse_other, rng_tensors, set_rng, state_tensors
from trimtab.train.checkpoint_storage import SafetensorsReader, SafetensorsWriter

_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


class Checkpoints:
    """The checkpoints of one run in one folder; every process has one of these and all call the same methods in the same order.

    folder: shared by all processes; note: (kind, text) for events.jsonl, called on process 0 only. With `choice.background` a save copies
    the tensors and returns; what went wrong behind the training comes out of the next `save` or `wait`.
    """

    def __init__(self, folder: Path, choice: TrainCheckpoints, *, rank: int, world: int, note: Callable[[str, str], None]) -> None:
        self._folder, self._choice, self._rank, self._world, self._note = folder, choice, rank, world, note
        # A group of its own: messages of a save behind the training must not meet those of the training.
        self._group = dist.new_group(backend="gloo") if world > 1 else None
        if world == 1:
            warnings.filterwarnings("ignore", message="torch.distributed is disabled", category=UserWarning)
        cuda = torch.cuda.is_available()
        self._stager = DefaultStager(StagingOptions(cuda, False, False, cuda)) if choice.background else None
        self._pending: tuple[int, Future[Any]] | None = None
        self._whole_step: int | None = None

    def save(self, step: int, model: nn.Module, optimizer: Optimizer, extra: Mapping[str, Any]) -> None:
        """Save what training changed up to and with this step (from 1; 0 = before any), and `extra` (JSON).

        Does nothing when the newest checkpoint is of this very step. Raises what `wait` raises, about this save or the one before.
        """
        self.wait()
        if step == self._whole_step:
            return
        state = state_tensors(model, optimizer) | rng_tensors(self._rank, self._world)
        target = self._folder / folder_name(step)
        writer = SafetensorsWriter(target, step=step, world=self._world, extra=extra, committed=self._remove_old)
        planner = DefaultSavePlanner(flatten_state_dict=False, flatten_sharded_tensors=False)
        common = {"storage_writer": writer, "planner": planner, "process_group": self._group, "no_dist": self._group is None}
        if self._stager is not None:
            self._pending = step, dcp.async_save(state, async_stager=self._stager, **common)
        else:
            done: Future[Any] = Future()
            self._pending = step, done
            try:
                done.set_result(dcp.save(state, **common))
            except (Exception, CheckpointException) as error:
                done.set_exception(error)
            self.wait()

    def wait(self) -> None:
        """Until nothing is being written. Raises MissingError (no room, not allowed to write) and InputError (not one folder).

        All processes raise the same. What was whole before stays so, and a later `save` may succeed.
        """
        if self._pending is None:
            return
        (step, future), self._pending = self._pending, None
        try:
            future.result()
        except (Exception, CheckpointException) as error:
            if self._rank == 0:  # whatever fits into the room that this gives back
                shutil.rmtree(self._folder / f".{folder_name(step)}.part", ignore_errors=True)
            raise self._failure(step, error) from error
        self._whole_step = step

    def _failure(self, step: int, error: BaseException) -> TrimtabError:
        cause = next(iter(error.failures.values()))[0] if isinstance(error, CheckpointException) else error
        kept = ", ".join(str(found) for found in step_folders(self._folder)) or "none"
        said = f"The checkpoint of step {step} was not written; whole ones of steps: {kept}."
        if isinstance(cause, Damaged):
            return InputError(f"{said} Process 0 finds that {cause}; the run's folder has to be one that all processes share.")
        if isinstance(cause, OSError):
            fix = f"make room at {self._folder}" if cause.errno in _NO_ROOM else f"make {self._folder} writable"
            return MissingError(f"{said} {cause.strerror or cause}.", f"{fix}, then start the same command again; it goes on from there.")
        return TrimtabError(f"{said} {type(cause).__name__}: {cause}")

    def _remove_old(self, newest: Path) -> None:
        """Process 0, after a rename: all but the newest `keep` whole ones, and what killed saves and broken ones left behind."""
        kept = 0
        for path in step_folders(self._folder).values():
            whole = path == newest or _looks_whole(path)
            kept += whole
            if path != newest and (not whole or kept > max(1, self._choice.keep)):
                self._set_aside(path)
        for path in self._folder.glob(".step-*"):
            shutil.rmtree(path, ignore_errors=True)

    def _set_aside(self, path: Path) -> None:
        # One rename, so that no checkpoint's name ever stands on half of it; the next save removes it.
        aside = path.with_name(f".{path.name}.aside")
        shutil.rmtree(aside, ignore_errors=True)
        try:
            path.rename(aside)
        except OSError as error:
            self._note("note", f"{path} could not be set aside ({error.strerror}).")

    def load_latest(self, model: nn.Module, optimizer: Optimizer, *, before: int | None = None) -> tuple[int, dict[str, Any]] | None:
        """Load the newest whole checkpoint, of a step below `before` if given. Returns its step and extra, or None where there is none.

        All its files are read and compared with their checksums first; one that is not whole is left for the one before it, which is noted
        as `fallback`. Newer ones are then set aside, for this run's future is no longer theirs. Random numbers go on where they were when
        the number of processes is the same. Raises InputError when checkpoints exist and none is whole, or when they are of another model.
        """
        self.wait()
        found = self._agreed({step: path for step, path in step_folders(self._folder).items() if before is None or step < before})
        damaged: list[str] = []
        for step, path in found.items():
            manifest, complaint = self._checked(path)
            if manifest is None:
                damaged.append(f"{path.name}: {complaint}")
                continue
            if damaged:
                self._say("fallback", f"Not whole: {'; '.join(damaged)}. Going back to {path.name}.")
            self._load(model, optimizer, path, manifest)
            if self._rank == 0:
                for newer in (other for at, other in step_folders(self._folder).items() if at > step):
                    self._set_aside(newer)
            self._whole_step = step
            return step, dict(manifest.extra)
        if damaged:
            raise InputError(
                f"No checkpoint in {self._folder} is whole: {'; '.join(damaged)}. Remove the folder to start from the beginning."
            )
        return None

    def _load(self, model: nn.Module, optimizer: Optimizer, path: Path, manifest: Manifest) -> None:
        wanted = state_tensors(model, optimizer)
        refuse_other(wanted, manifest, str(path))
        rng = {name: tensor for name, tensor in rng_tensors(self._rank, self._world).items() if name in manifest.tensors}
        state = {name: tensor for name, tensor in (wanted | rng).items() if name in manifest.tensors}
        dcp.load(
            state,
            storage_reader=SafetensorsReader(path, manifest),
            planner=DefaultLoadPlanner(flatten_state_dict=False, flatten_sharded_tensors=False),
            process_group=self._group,
            no_dist=self._group is None,
        )
        set_rng({name: state[name] for name in rng})
        if load_repacked(model, optimizer, path, manifest):
            self._say("note", "The 8-bit states of the optimizer were packed anew for this layout; that rounds them.")
        if self._world != manifest.world and has_dropout(model):
            self._say("note", f"Dropout draws other random numbers on {self._world} processes than on the {manifest.world} before.")

    def _checked(self, path: Path) -> tuple[Manifest | None, str]:
        """The manifest of a whole checkpoint, else what is wrong. Each process reads its share of the files; all learn all."""
        manifest, complaint = None, ""
        try:
            manifest = check_sizes(path)
            check_contents(path, manifest, sorted(manifest.files)[self._rank :: self._world])
        except Damaged as error:
            complaint = str(error)
        complaints = self._from_all(complaint)
        first = next((said for said in complaints if said), "")
        return (None, first) if first else (manifest, "")

    def _agreed(self, found: dict[int, Path]) -> dict[int, Path]:
        """What process 0 found: another may look a moment later."""
        agreed: dict[int, Path] = self._from_all(found)[0]
        return agreed

    def _from_all(self, value: Any) -> list[Any]:
        if self._group is None:
            return [value]
        values: list[Any] = [None] * self._world
        dist.all_gather_object(values, value, group=self._group)
        return values

    def _say(self, kind: str, text: str) -> None:
        if self._rank == 0:
            self._note(kind, text)


def _looks_whole(path: Path) -> bool:
    try:
        check_sizes(path)
    except Damaged:
        return False
    return True
