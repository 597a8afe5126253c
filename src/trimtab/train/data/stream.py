"""Batches from text or shards: the same ones for a step's number, whatever the number of processes, begun or taken up anywhere."""

import os
import queue
import threading
import time
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

import numpy as np

from trimtab.core.errors import InputError
from trimtab.core.files import digest_of
from trimtab.core.training import TrainData
from trimtab.train.batch import MicroBatch
from trimtab.train.data import order as orders
from trimtab.train.data.cache import clear
from trimtab.train.data.inputs import resolved
from trimtab.train.data.packing import empty_batch, packed_count, padded_counts
from trimtab.train.data.places import LocalPlace, Place
from trimtab.train.data.prepare import prepare
from trimtab.train.data.reader import Reader, Source
from trimtab.train.data.shards import LENGTHS, MANIFEST, Manifest, lengths_from_bytes, parsed_manifest
from trimtab.train.data.tokenizers import Tokenizer

__all__ = ["Stream", "Tokenizer", "open_stream", "timed"]


class Stream:
    """Sequences of prepared data in an order without end; made by `open_stream`.

    n_sequences, n_documents, n_tokens: of one epoch; n_tokens without padding
    n_target_tokens: of them, those whose loss counts
    padding_share: of all tokens of an epoch's sequences, how many are padding
    bytes_per_token: in the shards as they are stored; places: folders that they lie in
    digest: of content and order: two streams of one digest give the same batches for the same numbers
    """

    def __init__(
        self, sources: list[Source], counts: list[int], data: TrainData, *, seq_tokens: int, seed: int, cache: Path, in_use: list[int]
    ) -> None:
        self._data, self._seq_tokens, self._in_use = data, seq_tokens, in_use
        self._order = orders.Order(counts, shuffle=data.shuffle, seed=seed)
        self._reader = Reader(
            sources,
            cache,
            limit_bytes=data.cache_bytes,
            seq_tokens=seq_tokens,
            padded=data.layout == "padded",
            mask_documents=data.mask_documents,
        )
        self._reading = threading.Lock()
        self._ahead: _Ahead | None = None
        shards = [source.shard for source in sources]
        self.places = tuple(dict.fromkeys(source.place.where("") for source in sources))
        self.n_sequences = sum(counts)
        self.n_documents = sum(shard.n_documents for shard in shards)
        self.n_tokens = sum(shard.n_tokens for shard in shards)
        joined = not data.mask_documents and data.layout == "packed"
        self.n_target_tokens = sum(shard.n_targets + shard.n_first * joined for shard in shards)
        last = self.n_documents if data.layout == "padded" else len(shards)  # tokens that nothing follows are no inputs
        self.padding_share = 1.0 - (self.n_tokens - last) / (self.n_sequences * seq_tokens)
        self.bytes_per_token = sum(shard.n_bytes for shard in shards) / self.n_tokens
        self.digest = digest_of(
            [
                orders.RULES,
                [shard.content for shard in shards],
                [data.layout, data.mask_documents, data.shuffle, seq_tokens, seed if data.shuffle else 0],
            ]
        )

    def steps(
        self, *, first_step: int, rank: int, world: int, micro_batch_seqs: int, grad_accum: int, leave_out: Collection[int] = ()
    ) -> Iterator[list[MicroBatch]]:
        """The micro-batches of one process, step after step without end, made ready ahead in a thread; ends what the call before it gave.

        first_step: from 0; step k takes batch `order.batch_of_step(k, leave_out)`, the sequences [b G, (b + 1) G) of the order, where
        G = world * grad_accum * micro_batch_seqs
        Raises InputError and MissingError as shards are read.
        """

        def made() -> Iterator[list[MicroBatch]]:
            step = first_step
            while True:
                batch = orders.batch_of_step(step, leave_out)
                yield self._batches(batch, rank=rank, world=world, micro_batch_seqs=micro_batch_seqs, grad_accum=grad_accum)
                step += 1

        self.end()
        if self._data.prefetch_steps == 0:
            return made()
        self._ahead = _Ahead(made(), self._data.prefetch_steps)
        return self._ahead

    def end(self) -> None:
        """End the thread that makes steps ready. Idempotent."""
        if self._ahead is not None:
            self._ahead.stop()
            self._ahead = None

    def close(self) -> None:
        """End the threads and let go of the files. Idempotent."""
        self.end()
        self._reader.close()
        while self._in_use:
            os.close(self._in_use.pop())

    def fetched(self) -> tuple[int, float]:
        """(bytes that came from behind addresses, seconds in which any were being fetched)."""
        return self._reader.fetched_bytes, self._reader.fetch_s

    def _batches(self, batch: int, *, rank: int, world: int, micro_batch_seqs: int, grad_accum: int) -> list[MicroBatch]:
        places = orders.positions_of(batch, rank=rank, world=world, micro_batch_seqs=micro_batch_seqs, grad_accum=grad_accum)
        with self._reading:
            shards, rows = self._order.locate(places.ravel())
            numbers = self._order.numbers(shards, rows)
            now, next_ = self._order.shards_from(int(places.max()))
            self._reader.want([*dict.fromkeys([*shards.tolist(), *now])], next_)
            made = []
            for at in range(0, places.size, micro_batch_seqs):
                batch_made = empty_batch(micro_batch_seqs, self._seq_tokens)
                for row in range(micro_batch_seqs):
                    self._reader.packing(int(shards[at + row])).fill(row, int(rows[at + row]), batch_made)
                assert batch_made.sequence_ids is not None
                batch_made.sequence_ids[:] = numbers[at : at + micro_batch_seqs]
                made.append(batch_made)
        return made


class _Ahead(Iterator[list[MicroBatch]]):
    """What an iterator gives, made ready in a thread, at most `depth` ahead. An error comes where its item would have."""

    def __init__(self, made: Iterator[list[MicroBatch]], depth: int) -> None:
        self._ready: queue.Queue[list[MicroBatch] | BaseException] = queue.Queue(maxsize=depth)
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(made,), name="batches", daemon=True)
        self._thread.start()

    def __next__(self) -> list[MicroBatch]:
        while True:
            if self._stopped.is_set():
                raise StopIteration
            try:
                item = self._ready.get(timeout=1.0)
            except queue.Empty:
                continue
            if isinstance(item, BaseException):
                self._stopped.set()
                raise item
            return item

    def stop(self) -> None:
        """End the thread. Idempotent."""
        self._stopped.set()
        while self._thread.is_alive():
            try:
                self._ready.get_nowait()  # it may wait to put one
            except queue.Empty:
                self._thread.join(0.05)

    def _run(self, made: Iterator[list[MicroBatch]]) -> None:
        try:
            for item in made:
                self._ready.put(item)
                if self._stopped.is_set():
                    return
        except BaseException as error:
            self._ready.put(error)


def timed(steps: Iterator[list[MicroBatch]]) -> Iterator[tuple[list[MicroBatch], float]]:
    """Each step's batches with the seconds that were waited for them."""
    while True:
        begun = time.perf_counter()
        batches = next(steps, None)
        if batches is None:
            return
        yield batches, time.perf_counter() - begun


def open_stream(
    data: TrainData,
    *,
    seq_tokens: int,
    seed: int,
    tokenizer: Tokenizer,
    cache_dir: Path,
    say: Callable[[str], None] = lambda text: None,
) -> Stream:
    """Find the data, tokenise what is text unless that was done before, and check it against the tokenizer.

    cache_dir: shards are kept below it, no more than `data.cache_bytes`; say: is told what takes long
    Raises InputError (no data, broken or foreign files, another tokenizer, less than one sequence), MissingError (disk full, no reply).
    """
    inputs = resolved(data.files)
    places: list[Place] = list(inputs.prepared)
    in_use: list[int] = []
    try:
        if inputs.texts:
            folder, handle = prepare(inputs.texts, data, tokenizer, cache_dir, say)
            in_use.append(handle)
            places.append(LocalPlace(folder))
            clear(cache_dir, data.cache_bytes)
        sources: list[Source] = []
        counts: list[int] = []
        for place in places:
            manifest = parsed_manifest(place.read(MANIFEST), place.where(MANIFEST))
            _check(manifest, data, tokenizer, place.where(""))
            remedy = (
                "copy the folder again" if place in inputs.prepared else "remove its folder and start again: the text is tokenised anew"
            )
            sources += [Source(place=place, manifest=manifest, shard=shard, remedy=remedy) for shard in manifest.shards]
            counts += _counts(manifest, place, data.layout, seq_tokens)
        n_tokens = sum(source.shard.n_tokens for source in sources)
        if sum(counts) == 0 or (data.layout == "packed" and n_tokens <= seq_tokens):
            raise InputError(f"The data have {n_tokens} tokens, less than one sequence of {seq_tokens}; give more, or lower seq_tokens.")
        return Stream(sources, counts, data, seq_tokens=seq_tokens, seed=seed, cache=cache_dir, in_use=in_use)
    except BaseException:
        for handle in in_use:
            os.close(handle)
        raise


def _counts(manifest: Manifest, place: Place, layout: str, seq_tokens: int) -> list[int]:
    if layout == "packed":
        return [packed_count(shard.n_tokens, seq_tokens) for shard in manifest.shards]
    lengths = lengths_from_bytes(place.read(LENGTHS), manifest, place.where(LENGTHS))
    return [int(np.sum(padded_counts(shard, seq_tokens))) for shard in lengths]


def _check(manifest: Manifest, data: TrainData, tokenizer: Tokenizer, where: str) -> None:
    if manifest.tokenizer != tokenizer.digest:
        raise InputError(f"{where} was made with another tokenizer than the model's; prepare its text again for this model.")
    if manifest.chat != data.chat:
        held = "conversations" if manifest.chat else "plain text"
        raise InputError(f"{where} holds {held}; set chat = {str(manifest.chat).lower()} in [data], or prepare its text again.")
    if manifest.weight != data.weight:
        raise InputError(f"{where} was made with weight = {manifest.weight!r}, and [data] says {data.weight!r}; change one of them.")
