"""Quantised checkpoints in transformers, opened directly or unpacked before: the same scores as plain weights of the same numbers."""

import asyncio
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

from trimtab.core.deployment import Settings
from trimtab.core.errors import InputError
from trimtab.core.model import Snapshot
from trimtab.describe.packing import packing_of
from trimtab.engines.base import ScoreRequest
from trimtab.engines.transformers import TransformersEngine
from trimtab.flows.parts.opening import Opened, as_opened, build_candidate, default_engine, recipe_named
from trimtab.sources.open import open_source, read_header
from trimtab.testing.engine_contract import all_logprobs
from trimtab.testing.packed_checkpoints import pack_checkpoint, save
from trimtab.testing.tiny_models import write_tiny_safetensors
from trimtab.testing.tiny_transformers import write_tiny_transformers

SETTINGS = Settings(context_tokens=512, threads=1)
REQUEST = ScoreRequest(prefix_ids=(5, 70, 9, 40), continuations=((60, 61, 300, 12, 8), (7, 7, 7)))
EXPERTS = {"num_local_experts": 4, "num_experts_per_tok": 2, "intermediate_size": 64, "num_key_value_heads": 2, "head_dim": 16}


def opened(folder: Path) -> Opened:
    snapshot = open_source(str(folder), cache_dir=folder.parent / "opened")
    return Opened(snapshot=snapshot, header=read_header(snapshot))


def scores(snapshot: Snapshot) -> list[float]:
    engine = TransformersEngine(snapshot, SETTINGS)
    engine.load("score")
    try:
        return all_logprobs(engine.score([REQUEST]))
    finally:
        engine.close()


@pytest.fixture
def packed(tmp_path: Path) -> Callable[..., tuple[Opened, Path]]:
    """A tiny model packed by a scheme, and a plain directory of the numbers that it stands for."""

    def make(scheme: str) -> tuple[Opened, Path]:
        told = {"model_type": "gpt_oss", **EXPERTS} if scheme == "mxfp4" else {"model_type": "llama"}
        plain = write_tiny_transformers(tmp_path / "plain", **told)
        meant = pack_checkpoint(plain, tmp_path / "packed", scheme)
        shutil.copytree(plain, tmp_path / "meant")
        save(tmp_path / "meant" / "model.safetensors", {name: ("F32", np.ascontiguousarray(values)) for name, values in meant.items()})
        return opened(tmp_path / "packed"), tmp_path / "meant"

    return make


@pytest.mark.parametrize("scheme", ["gptq-act-order", "fp8", "mxfp4"])
def test_scores_are_those_of_the_plain_model_with_the_same_numbers(
    packed: Callable[..., tuple[Opened, Path]], tmp_path: Path, scheme: str
) -> None:
    source, meant = packed(scheme)
    assert default_engine(source) == "transformers"
    expected = scores(opened(meant).snapshot)
    as_shipped = recipe_named("", "transformers")
    direct = scheme in ("fp8", "mxfp4")
    assert as_opened(source, "transformers", as_shipped).name == ("as-shipped" if direct else "huggingface-fp32")
    shipped = asyncio.run(build_candidate(source, "transformers", as_shipped, SETTINGS, products_dir=tmp_path / "products"))
    assert shipped.recipe == ("as-shipped" if direct else "huggingface-fp32")
    assert (shipped.snapshot.digest == source.snapshot.digest) == direct
    # transformers lays unpacked experts out otherwise in memory, and the order of sums moves the last bits.
    assert scores(shipped.snapshot) == (pytest.approx(expected, abs=1e-5) if scheme == "mxfp4" else expected)
    unpacked = asyncio.run(
        build_candidate(source, "transformers", recipe_named("fp32", "transformers"), SETTINGS, products_dir=tmp_path / "products")
    )
    assert scores(unpacked.snapshot) == expected


def test_what_nobody_here_unpacks_is_refused_with_the_way_out(tmp_path: Path) -> None:
    source = opened(write_tiny_safetensors(tmp_path / "nf4", quantization="bitsandbytes"))
    with pytest.raises(InputError, match=r"bitsandbytes, 4 bits.*no reader here knows bitsandbytes; give the original weights"):
        default_engine(source)
    assert "huggingface-fp32" in TransformersEngine.refuses(source.snapshot, source.header, SETTINGS)
    packing = packing_of(source.header.metadata)
    assert packing is not None
    assert packing.schemes[0].bits == 4
