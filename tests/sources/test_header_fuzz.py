"""Mutated headers: each one gives a header or an InputError, quickly and in little memory."""

import gc
import json
import random
import resource
import struct
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest

from trimtab.core.errors import InputError
from trimtab.core.model import ModelHeader, Snapshot, SnapshotFile
from trimtab.describe.card import card_rows, layer_rows, model_card
from trimtab.sources.gguf import gguf_parts, read_gguf_header
from trimtab.sources.safetensors import read_hf_header
from trimtab.testing.tiny_models import write_tiny_gguf, write_tiny_safetensors

TRACED = 200
EDGES = [0, 1, 2, 0x7F, 0x80, 0xFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 1 << 40, (1 << 63) - 1, 1 << 63, (1 << 64) - 1]


def mutated(raw: bytes, rng: random.Random, reach: int) -> bytes:
    """One to three changes within the first `reach` bytes: bits, edge numbers, cuts, copies, insertions."""
    data = bytearray(raw)
    for _ in range(rng.randint(1, 3)):
        place = rng.randrange(max(min(reach, len(data)) - 8, 1))
        kind = rng.randrange(7)
        if kind == 0:
            data[place] ^= 1 << rng.randrange(8)
        elif kind == 1:
            data[place : place + 8] = struct.pack("<Q", rng.choice(EDGES))
        elif kind == 2:
            data[place : place + 4] = struct.pack("<I", rng.choice(EDGES) & 0xFFFFFFFF)
        elif kind == 3:
            del data[rng.randrange(1, len(data)) :]
        elif kind == 4:
            other = rng.randrange(max(min(reach, len(data)) - 64, 1))
            data[place : place + 64] = data[other : other + 64]
        elif kind == 5:
            data[place:place] = rng.randbytes(rng.randint(1, 16))
        else:
            data[place] = rng.randrange(256)
    return bytes(data)


def mutated_json(raw: bytes, rng: random.Random) -> bytes:
    """A number, a quoted word or a bracket of the header's JSON replaced; the length field kept true."""
    length = int.from_bytes(raw[:8], "little")
    text = raw[8 : 8 + length].decode().rstrip()
    words = ["-1", "1e999", "null", '"x"', "[]", "{}", str(1 << 63), str(1 << 200), "true", "NaN", '"F32"', "9" * 5000]
    place = rng.randrange(len(text))
    text = text[:place] + rng.choice(words) + text[place + rng.randint(0, 6) :]
    return struct.pack("<Q", len(text.encode())) + text.encode() + raw[8 + length :]


def survives(read: Callable[[], ModelHeader], snapshot: Snapshot) -> bool:
    """True if a header came back; its card must then work too. Anything but InputError, or a second's work, is a failure of the test."""
    for _ in range(2):  # what the process collects as garbage may fall into one
        began_s = time.process_time()
        is_whole = _survives(read, snapshot)
        if time.process_time() - began_s < 1.0:
            return is_whole
    raise AssertionError("a header took more than a second, twice")


def _survives(read: Callable[[], ModelHeader], snapshot: Snapshot) -> bool:
    try:
        header = read()
        card = model_card(header, snapshot)
        assert card.n_params >= 0
        card_rows(card)
        layer_rows(header)
    except InputError:
        return False
    return True


def fuzz(n: int, seed: int, write: Callable[[random.Random], None], read: Callable[[], ModelHeader], snapshot: Snapshot) -> int:
    """How many of n mutations still gave a header. Memory: Python's own in short runs (tracing is slow), the process's in long ones."""
    rng = random.Random(seed)
    whole = 0
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    if n <= TRACED:
        tracemalloc.start()
    try:
        for _ in range(n):
            write(rng)
            whole += survives(read, snapshot)
        if n <= TRACED:
            assert tracemalloc.get_traced_memory()[1] < 64 << 20
    finally:
        tracemalloc.stop()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # kB
    return whole


@pytest.mark.parametrize("n", [150, pytest.param(3400, marks=pytest.mark.slow)])
@pytest.mark.parametrize("architecture", ["llama", "gemma3"])
def test_mutated_gguf_headers(tmp_path: Path, architecture: str, n: int) -> None:
    raw = write_tiny_gguf(tmp_path / "t.gguf", architecture=architecture, weight_type="Q8_0").read_bytes()
    path = tmp_path / "m.gguf"
    snapshot = Snapshot(
        source="m", format="gguf", root=tmp_path, files=(SnapshotFile(name="m.gguf", size_bytes=len(raw), sha256="0" * 64),)
    )
    whole = fuzz(n, n, lambda rng: void(path.write_bytes(mutated(raw, rng, 20_000))), lambda: read_gguf_header(gguf_parts(path)), snapshot)
    assert 0 < whole < n


@pytest.mark.parametrize("n", [100, pytest.param(1600, marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", ["bytes", "json"])
def test_mutated_safetensors_headers(tmp_path: Path, kind: str, n: int) -> None:
    folder = write_tiny_safetensors(tmp_path / "hf", quantization="awq")
    path = folder / "model.safetensors"
    raw = path.read_bytes()
    snapshot = Snapshot(
        source="m", format="safetensors", root=folder, files=(SnapshotFile(name=path.name, size_bytes=len(raw), sha256="0" * 64),)
    )
    change: Callable[[random.Random], bytes] = (
        (lambda rng: mutated(raw, rng, 6_000)) if kind == "bytes" else (lambda rng: mutated_json(raw, rng))
    )
    whole = fuzz(n, n, lambda rng: void(path.write_bytes(change(rng))), lambda: read_hf_header(folder), snapshot)
    assert whole < n


@pytest.mark.slow
def test_mutated_configs(tmp_path: Path) -> None:
    folder = write_tiny_safetensors(tmp_path / "hf")
    config = json.loads((folder / "config.json").read_text())
    snapshot = Snapshot(source="m", format="safetensors", root=folder, files=(SnapshotFile(name="x", size_bytes=1, sha256="0" * 64),))
    keys = [
        *config,
        "head_dim",
        "sliding_window",
        "layer_types",
        "text_config",
        "quantization_config",
        "kv_lora_rank",
        "num_experts",
        "architectures",
    ]
    values = [
        None,
        -1,
        0,
        1 << 62,
        10**30,
        1.5,
        True,
        "x",
        [],
        [None],
        {},
        {"a": 1},
        [["a"]],
        "sliding_attention",
        ["sliding_attention"] * 9,
    ]

    def write(rng: random.Random) -> None:
        changed = {**config, **{rng.choice(keys): rng.choice(values) for _ in range(rng.randint(1, 4))}}
        (folder / "config.json").write_text(json.dumps(changed))

    assert fuzz(1000, 5, write, lambda: read_hf_header(folder), snapshot) > 500


def void(_: object) -> None:
    return None


def crafted_gguf(kind: str) -> bytes:
    """Headers as large as the limits let them be."""

    def text(value: bytes) -> bytes:
        return struct.pack("<Q", len(value)) + value

    arch = text(b"general.architecture") + struct.pack("<I", 8) + text(b"llama")
    if kind == "strings":
        keys = [text(b"k%d" % n) + struct.pack("<IIQ", 9, 8, 1_000_000) + bytes(8_000_000) for n in range(5)]
        tensors = []
    elif kind == "arrays":
        keys = [text(b"k%d" % n) + struct.pack("<IIQ", 9, 0, 1024) + bytes(1024) for n in range(60_000)]
        tensors = []
    elif kind == "texts":
        keys = [text(b"k%d" % n) + struct.pack("<I", 8) + text(b"x" * (4 << 20)) for n in range(24)]
        tensors = []
    else:
        keys = []
        tensors = [text(b"t%d" % n) + struct.pack("<IQIQ", 1, 8, 0, 32 * n) for n in range(65_536)]
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(keys) + 1) + arch + b"".join(keys) + b"".join(tensors)
    return head + bytes(32 + 32 * len(tensors))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "outcome"), [("strings", "more than"), ("arrays", "larger than"), ("texts", "larger than"), ("tensors", "")]
)
def test_headers_as_large_as_the_limits(tmp_path: Path, kind: str, outcome: str) -> None:
    path = tmp_path / "big.gguf"
    path.write_bytes(crafted_gguf(kind))
    gc.collect()
    gc.freeze()  # what other tests left is not collected on this one's time
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.process_time()
    if outcome:
        with pytest.raises(InputError, match=outcome):
            read_gguf_header((path,))
    else:
        assert len(read_gguf_header((path,)).tensors) == 65_536
    assert time.process_time() - started < 2
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000  # kB; the mapped file counts too
