"""Scoring through the graph that OpenVINO GenAI serves: the model after its paged-attention transformation.

GenAI's pipeline returns log-probabilities of the tokens it was given but no others, so the same transformed model is compiled here
with the same properties, its logits cut to the rows that are read. Sequences of any length lie end to end in one call, so there is
no padding that could change a score. A prefix is computed once: its whole cache blocks are shared by the continuations and its last,
partly filled block is copied for each of them.
"""

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from trimtab.core.errors import EngineRefused
from trimtab.engines.base import ScoreRequest, ScoreResult
from trimtab.engines.openvino_text import last_sentence
from trimtab.engines.tally import Logits, Place, Tally

LOGITS_BYTES = 2**27
"""At most this much memory for the logits of one call."""
POOL_BATCHES = 8
POOL_BYTES = 2**28
"""The cache holds this many batches, so that continuations of many prefixes fill a call, but no more than this memory for it."""
MAX_HEAD_STEPS = 12


@dataclass(kw_only=True)
class PagedTally(Tally):
    """What is known so far of one request. blocks: all cache blocks it holds; spare: those not handed to a job yet."""

    unfinished: int = 0
    blocks: list[int] = field(default_factory=list)
    spare: list[int] = field(default_factory=list)


@dataclass(kw_only=True)
class Job:
    """Tokens of one sequence still to be computed.

    ids: tokens; n_done: how many of them are in the cache; past: tokens of the sequence before them
    first_row: index in ids of the first token whose logits are read; places: for each such row, what it predicts
    branch: -1 for a prefix on which continuations wait
    """

    tally: PagedTally
    ids: tuple[int, ...]
    past: int
    blocks: list[int]
    first_row: int
    places: list[list[Place]]
    branch: int
    n_done: int = 0

    def chunk(self, room: int, rows_room: int) -> tuple[int, int]:
        """How many tokens may be computed next and how many rows of logits they give."""
        count = min(room, len(self.ids) - self.n_done)
        skipped = max(0, self.first_row - self.n_done)
        rows = max(0, count - skipped)
        if rows > rows_room:
            count, rows = skipped + rows_room, rows_room
        return count, rows


class PagedScorer:
    """One compiled paged-attention model with its cache blocks.

    properties: OpenVINO CPU properties, the same that serving gets
    batch_tokens: tokens computed in one call at most
    kv_type: what the compiled model keeps in its cache
    """

    def __init__(self, model_path: Path, source: str, *, properties: Mapping[str, Any], batch_tokens: int) -> None:
        try:
            self._open(model_path, properties)
        except RuntimeError as error:
            raise EngineRefused(f"OpenVINO cannot score with {source}: {last_sentence(error)}.") from error
        self.batch_tokens = batch_tokens
        self.max_rows = max(1, min(batch_tokens, LOGITS_BYTES // (4 * self.vocab_size)))
        self._free: list[int] = []
        self._n_blocks = 0

    def _open(self, model_path: Path, properties: Mapping[str, Any]) -> None:
        import openvino
        from openvino._offline_transformations import paged_attention_transformation

        core = openvino.Core()
        options = dict(properties)
        core.set_property({"ENABLE_MMAP": options.pop("ENABLE_MMAP", True)})
        model = core.read_model(str(model_path))
        paged_attention_transformation(model)
        _cut_logits_to_rows(model)
        compiled = core.compile_model(model, "CPU", options)
        self._caches = {port.get_any_name(): port for port in compiled.inputs if "_cache." in port.get_any_name()}
        if "value_cache.0" not in self._caches:
            raise EngineRefused("OpenVINO cannot score a model that has no paged attention.")
        value_port = self._caches["value_cache.0"]
        self.block_tokens: int = value_port.partial_shape[2].get_length()
        self.kv_type: str = value_port.element_type.get_type_name()
        self.vocab_size: int = compiled.output("logits").partial_shape[-1].get_length()
        self._call = compiled.create_infer_request()

    def score(self, requests: Sequence[ScoreRequest]) -> list[ScoreResult]:
        """One result a request, in order. Checks of ids and lengths are the caller's."""
        tallies = [PagedTally(request=request) for request in requests]
        waiting = deque(tallies)
        ready: deque[Job] = deque()
        largest = max(map(self._blocks_needed, requests), default=0)
        usual = min(POOL_BATCHES * self.batch_tokens // self.block_tokens, POOL_BYTES // self._block_bytes)
        self._reserve(max(largest, usual))
        while waiting or ready:
            while waiting and self._blocks_needed(waiting[0].request) <= len(self._free):
                ready.append(self._admit(waiting.popleft()))
                if sum(len(job.ids) - job.n_done for job in ready) >= self.batch_tokens:
                    break
            for job in self._compute(ready):
                self._finish(job, ready)
        return [tally.result() for tally in tallies]

    def _blocks_needed(self, request: ScoreRequest) -> int:
        """Blocks that a request holds while it is computed; the last token of a continuation is never computed."""
        size = self.block_tokens
        prefix = len(request.prefix_ids)
        if len(request.continuations) == 1:
            return -(-(prefix + len(request.continuations[0]) - 1) // size)
        tails = (-(-(prefix % size + len(ids) - 1) // size) for ids in request.continuations if len(ids) > 1)
        return -(-prefix // size) + sum(tails)

    @property
    def _block_bytes(self) -> int:
        """Bytes of one block in all layers."""
        return sum(map(_bytes_per_block, self._caches.values()))

    def _reserve(self, n_blocks: int) -> None:
        """Make room for at least n_blocks; only called while no block is in use."""
        import openvino

        if n_blocks <= self._n_blocks:
            return
        self._memory: dict[str, npt.NDArray[np.uint8]] = {}
        for name, port in self._caches.items():
            shape = [n_blocks, *_block_shape(port)]
            self._memory[name] = np.zeros((n_blocks, _bytes_per_block(port)), np.uint8)
            tensor = openvino.Tensor(self._memory[name].reshape(-1), openvino.Shape(shape), port.element_type)
            self._call.set_tensor(name, tensor)
        self._n_blocks = n_blocks
        self._free = list(range(n_blocks))

    def _take_blocks(self, tally: PagedTally, n_tokens: int) -> list[int]:
        return [tally.spare.pop() for _ in range(-(-n_tokens // self.block_tokens))]

    def _admit(self, tally: PagedTally) -> Job:
        """The first job of a request: its prefix, together with the continuation where there is only one."""
        request = tally.request
        tally.blocks = [self._free.pop() for _ in range(self._blocks_needed(request))]
        tally.spare = list(tally.blocks)
        prefix = request.prefix_ids
        first_row = len(prefix) - 1
        if len(request.continuations) == 1:
            only = request.continuations[0]
            ids = (*prefix, *only[:-1])
            tally.unfinished = 1
            places = [[(0, position)] for position in range(len(only))]
            blocks = self._take_blocks(tally, len(ids))
            return Job(tally=tally, ids=ids, past=0, blocks=blocks, first_row=first_row, places=places, branch=0)
        places = [[(branch, 0) for branch in range(len(request.continuations))]]
        blocks = self._take_blocks(tally, len(prefix))
        return Job(tally=tally, ids=prefix, past=0, blocks=blocks, first_row=first_row, places=places, branch=-1)

    def _fork(self, prefix: Job, branch: int) -> Job:
        """The job of one continuation, on the prefix's whole blocks and a copy of its last, partly filled one."""
        ids = prefix.tally.request.continuations[branch]
        whole, part = divmod(len(prefix.ids), self.block_tokens)
        own = self._take_blocks(prefix.tally, part + len(ids) - 1)
        if part:
            for memory in self._memory.values():
                memory[own[0]] = memory[prefix.blocks[whole]]
        places = [[(branch, position)] for position in range(1, len(ids))]
        blocks = prefix.blocks[:whole] + own
        return Job(tally=prefix.tally, ids=ids[:-1], past=len(prefix.ids), blocks=blocks, first_row=0, places=places, branch=branch)

    def _finish(self, job: Job, ready: deque[Job]) -> None:
        """Let continuations follow their prefix; give the blocks of a finished request back."""
        tally = job.tally
        if job.branch < 0:
            forks = [branch for branch, ids in enumerate(tally.request.continuations) if len(ids) > 1]
            tally.unfinished = len(forks)
            ready.extendleft(self._fork(job, branch) for branch in reversed(forks))
        else:
            tally.unfinished -= 1
        if tally.unfinished == 0:
            self._free += tally.blocks

    def _compute(self, ready: deque[Job]) -> list[Job]:
        """One call on as many waiting tokens as fit. Returns the jobs that are complete; the others stay in `ready`."""
        room, rows_room = self.batch_tokens, self.max_rows
        parts: list[tuple[Job, int, int]] = []
        for job in ready:
            count, rows = job.chunk(room, rows_room)
            if count == 0:
                break
            parts.append((job, count, rows))
            room -= count
            rows_room -= rows
            if job.n_done + count < len(job.ids):
                break
        logits = self._infer(parts)
        scratch = np.empty(self.vocab_size, np.float32)
        row = 0
        complete = []
        for job, count, rows in parts:
            first = max(0, job.n_done - job.first_row)
            for index in range(first, first + rows):
                job.tally.take(logits[row], scratch, job.places[index])
                row += 1
            job.n_done += count
            if job.n_done == len(job.ids):
                ready.popleft()
                complete.append(job)
        return complete

    def _infer(self, parts: Sequence[tuple[Job, int, int]]) -> Logits:
        """Logits [rows, vocab_size] of the chunks, whose tokens lie end to end."""
        import openvino

        ids: list[int] = []
        positions: list[int] = []
        pasts: list[int] = []
        begins = [0]
        blocks: list[int] = []
        block_begins = [0]
        rows: list[int] = []
        for job, count, n_rows in parts:
            past = job.past + job.n_done
            ids += job.ids[job.n_done : job.n_done + count]
            positions += range(past, past + count)
            pasts.append(past)
            begins.append(len(ids))
            blocks += job.blocks[: -(-(past + count) // self.block_tokens)]
            block_begins.append(len(blocks))
            rows += range(len(ids) - n_rows, len(ids))
        rows = rows or [len(ids) - 1]  # a call that reads no row still has to give one
        longest = max(past + end - begin for past, begin, end in zip(pasts, begins, begins[1:], strict=False))
        inputs = {
            "input_ids": np.array(ids, np.int64),
            "position_ids": np.array(positions, np.int64),
            "past_lens": np.array(pasts, np.int32),
            "subsequence_begins": np.array(begins, np.int32),
            "block_indices": np.array(blocks, np.int32),
            "block_indices_begins": np.array(block_begins, np.int32),
            "max_context_len": np.array(longest, np.int32),
            "rows": np.array(rows, np.int64),
        }
        for name, array in inputs.items():
            self._call.set_tensor(name, openvino.Tensor(array))
        self._call.infer()
        logits: Logits = self._call.get_tensor("logits").data.reshape(len(rows), -1)
        return logits


def _block_shape(port: Any) -> list[int]:
    return [port.partial_shape[axis].get_length() for axis in (1, 2, 3)]


def _bytes_per_block(port: Any) -> int:
    return int(np.prod(_block_shape(port), dtype=np.int64)) * int(port.element_type.bitwidth) // 8


def _cut_logits_to_rows(model: Any) -> None:
    """Add an input `rows` and compute logits only for these tokens: the last MatMul is the widest of the model."""
    import openvino
    from openvino import opset13

    result = model.get_results()[0]
    target = result.input(0)
    node = result.input_value(0).get_node()
    for _ in range(MAX_HEAD_STEPS):
        if node.get_type_name() == "MatMul":
            target = node.input(0)
            break
        if node.get_input_size() == 0:
            break
        node = node.input_value(0).get_node()
    rows = opset13.parameter([-1], openvino.Type.i64, name="rows")
    rows.output(0).set_names({"rows"})
    target.replace_source_output(opset13.gather(target.get_source_output(), rows, opset13.constant(np.int64(0))).output(0))
    model.add_parameters([rows])
    model.validate_nodes_and_infer_types()
    result.output(0).set_names({"logits"})
