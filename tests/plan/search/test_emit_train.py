"""What is emitted for a layout, read back by parsers of the tools' own option names, is that layout again."""

import argparse
import shlex
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest

from trimtab.core.errors import InputError
from trimtab.core.planning import Attention, Block, TrainJob
from trimtab.plan.architectures import architecture
from trimtab.plan.search.emit_train import (
    RECOMPUTE,
    SHARDING,
    TORCHTITAN_MODELS,
    Emitted,
    megatron,
    toml_text,
    torchtitan,
    trimtab,
)
from trimtab.plan.search.space import Space, enumerate_layouts
from trimtab.plan.training.layouts import check, layouts
from trimtab.train.config import config_of, read_config, resolved

from .samples import GB80, dense, train_job

MOE = dense("test-moe", n_layers=30, n_experts=8, n_experts_used=2)
JOBS = [
    train_job(n=16),
    train_job(MOE, n=32, batch=96),
    replace(train_job(n=8), precision="fp8"),
    train_job(dense(n_layers=30, gated=False), n=64),
    train_job(dense(n_layers=29), n=64),
]
EVERY = Space(vp=(1, 2, 4), cp=(1, 2), micro_batch=(1, 4), sequence_parallel=(0, 1), offload=(0, 1, 2), sharded_pipelines=True)


def some(job: TrainJob) -> list[dict[str, int]]:
    """A spread of the layouts that can run."""
    many = enumerate_layouts(job, EVERY)
    return [many.one(row) for row in range(0, len(many), max(1, len(many) // 40))]


CASES = [(job, layout) for job in JOBS for layout in some(job)]


def torchrun_of(emitted: Emitted, name: str) -> tuple[argparse.Namespace, list[str]]:
    """torchrun's options (torch.distributed.run) and what follows."""
    words = shlex.split(emitted.files[name].replace("\\\n", " "))
    assert words[0] == "torchrun"
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("--nnodes", type=int)
    parser.add_argument("--nproc-per-node", type=int)
    parser.add_argument("--standalone", action="store_true")
    parser.add_argument("--rdzv-backend")
    parser.add_argument("--rdzv-endpoint")
    parser.add_argument("-m", "--module", action="store_true")
    parser.add_argument("program", nargs=1)
    parser.add_argument("rest", nargs=argparse.REMAINDER)
    options = parser.parse_args(words[1:])
    return options, options.program + options.rest


OURS = Space(tp=(1,), pp=(1,), cp=(1,), ep=(1,), zero_stage=(0, 2, 3), micro_batch=(1, 4), offload=(0, 1, 2), recompute=(0, 1, 2))

OURS_FIRST = enumerate_layouts(train_job(n=16), OURS).one(0)


@pytest.mark.parametrize("n", [8, 16])
def test_trimtab_reads_what_is_emitted_for_it_as_that_layout(n: int, tmp_path: Path) -> None:
    job = replace(train_job(n=n), optimizer="adamw-8bit")
    many = enumerate_layouts(job, OURS)
    for row in range(0, len(many), max(1, len(many) // 20)):
        layout = many.one(row)
        if layout["offload"] and not layout["zero_stage"]:
            with pytest.raises(InputError, match="zero=0 with offload"):
                trimtab(job, layout, "m")
            continue
        emitted = trimtab(job, layout, 'hf:org/a "name"\\é')
        (tmp_path / "train.toml").write_text(emitted.files["train.toml"], encoding="utf-8")
        config = resolved(read_config(tmp_path / "train.toml"), n)
        assert config.model.source == 'hf:org/a "name"\\é'
        back = {
            **layout,
            "dp": config.layout.dp,
            "zero_stage": config.layout.zero_stage,
            "micro_batch": config.train.micro_batch_seqs,
            "grad_accum": config.train.grad_accum,
            "recompute": RECOMPUTE.index(config.train.recompute),
            "grad_sync_each": int(config.train.grad_sync == "each"),
        }
        assert back == layout
        assert (config.train.offload, config.optimizer.name) == (layout["offload"] > 0, "adamw8bit")
        assert any("moves weights and gradients" in note for note in emitted.notes) == (layout["offload"] == 1)
        assert (config.train.tokens, config.train.precision) == (10**12, "bf16")
        check(replace(job, global_batch_seqs=config.train.global_batch_seqs, seq_tokens=config.train.seq_tokens), layouts(**back))
        options, program = torchrun_of(emitted, "train.sh")
        assert options.nnodes * options.nproc_per_node == config.hardware["n_devices"] == n
        assert options.module
        assert program == ["trimtab.cli.train_worker", "train.toml"]


@pytest.mark.parametrize("change", [{"tp": 2}, {"pp": 2}, {"cp": 2}, {"ep": 2}, {"zero_stage": 1}])
def test_a_layout_that_trimtab_has_not_is_refused_with_who_has_it(change: dict[str, int], tmp_path: Path) -> None:
    job, plain = train_job(n=16), OURS_FIRST
    with pytest.raises(InputError, match="torchtitan or megatron"):
        trimtab(job, plain | change, "m")
    written = tomllib.loads(trimtab(job, plain, "m").files["train.toml"])
    with pytest.raises(InputError, match="--emit torchtitan"):
        config_of(written | {"layout": written["layout"] | change})


@pytest.mark.parametrize(("job", "layout"), CASES, ids=lambda _: "")
def test_torchtitan(job: TrainJob, layout: dict[str, int]) -> None:
    emitted = torchtitan(job, layout, "llama3 8B")
    written = tomllib.loads(emitted.files["torchtitan.toml"])
    degrees, training = written["parallelism"], written["training"]
    dp = degrees["data_parallel_replicate_degree"] * degrees["data_parallel_shard_degree"]
    ranks = degrees["tensor_parallel_degree"] * degrees["pipeline_parallel_degree"] * degrees["context_parallel_degree"]
    assert dp * ranks == job.n_devices
    assert (dp, degrees["expert_parallel_degree"]) == (layout["dp"], layout["ep"])
    assert RECOMPUTE.index(written["activation_checkpoint"]["mode"]) == layout["recompute"]
    assert training["enable_cpu_offload"] == (layout["offload"] > 0)
    assert any("moves weights and gradients" in note for note in emitted.notes) == (layout["offload"] == 1)
    assert training["global_batch_size"] % (training["local_batch_size"] * dp) == 0
    rounds = training["global_batch_size"] // (training["local_batch_size"] * dp)
    if layout["pp"] > 1:  # one round, whose rows the pipeline cuts into micro-batches
        less = degrees["pipeline_parallel_first_stage_less_layers"] + degrees["pipeline_parallel_last_stage_less_layers"]
        stages, rest = divmod(job.architecture.n_layers + less, degrees["pipeline_parallel_layers_per_stage"])  # as torchtitan counts
        assert (stages, rest) == (layout["pp"] * layout["vp"], 0)
        assert rounds == 1
        assert degrees["pipeline_parallel_microbatch_size"] == layout["micro_batch"]
        assert training["local_batch_size"] == layout["micro_batch"] * layout["grad_accum"]
        assert (degrees["pipeline_parallel_schedule"] == "Interleaved1F1B") == (layout["vp"] > 1)
    else:
        assert (training["local_batch_size"], rounds) == (layout["micro_batch"], layout["grad_accum"])
    assert (degrees["data_parallel_shard_degree"] > 1 or layout["dp"] == 1) == (layout["zero_stage"] > 0 or layout["dp"] == 1)
    assert any("ZeRO" in note for note in emitted.notes) == (layout["zero_stage"] in (1, 2))
    assert ("quantize.linear.float8" in written["model"].get("converters", ())) == (job.precision == "fp8")
    assert torchrun_of(emitted, "train.sh")[1] == ["torchtitan.train", "--job.config_file", "torchtitan.toml"]


def megatron_parser() -> argparse.ArgumentParser:
    """Names and types as megatron/training/arguments.py has them, those that are used here."""
    parser = argparse.ArgumentParser(allow_abbrev=False)
    for name in [
        "num-layers",
        "hidden-size",
        "num-attention-heads",
        "kv-channels",
        "num-query-groups",
        "ffn-hidden-size",
        "num-experts",
        "moe-router-topk",
        "moe-shared-expert-intermediate-size",
        "max-position-embeddings",
        "seq-length",
        "train-samples",
        "micro-batch-size",
        "global-batch-size",
        "tensor-model-parallel-size",
        "pipeline-model-parallel-size",
        "context-parallel-size",
        "expert-model-parallel-size",
        "num-virtual-stages-per-pipeline-rank",
        "recompute-num-layers",
    ]:
        parser.add_argument(f"--{name}", type=int)
    for name in [
        "group-query-attention",
        "swiglu",
        "untie-embeddings-and-output-weights",
        "sequence-parallel",
        "use-distributed-optimizer",
        "use-megatron-fsdp",
        "no-gradient-accumulation-fusion",
        "optimizer-cpu-offload",
        "bf16",
        "fp16",
        "account-for-embedding-in-pipeline-split",
        "account-for-loss-in-pipeline-split",
    ]:
        parser.add_argument(f"--{name}", action="store_true")
    parser.add_argument("--recompute-granularity", choices=["full", "selective"])
    parser.add_argument("--recompute-method", choices=["uniform", "block"])
    parser.add_argument("--data-parallel-sharding-strategy", choices=list(SHARDING), default="no_shard")
    parser.add_argument("--ckpt-format", choices=["torch", "torch_dist", "torch_dcp", "fsdp_dtensor"])
    parser.add_argument("--fp8-format", choices=["e4m3", "hybrid"])
    parser.add_argument("--fp8-recipe")
    parser.add_argument("--fp4-format", choices=["e2m1"])
    return parser


@pytest.mark.parametrize(("job", "layout"), CASES, ids=lambda _: "")
def test_megatron(job: TrainJob, layout: dict[str, int]) -> None:
    emitted = megatron(job, layout)
    options, program = torchrun_of(emitted, "megatron.sh")
    assert program[0] == "pretrain_gpt.py"
    assert program[-1] == "$@"
    found = megatron_parser().parse_args(program[1:-1])
    ranks = found.tensor_model_parallel_size * found.pipeline_model_parallel_size * found.context_parallel_size
    dp = options.nnodes * options.nproc_per_node // ranks
    zero = SHARDING.index(found.data_parallel_sharding_strategy) if found.use_megatron_fsdp else int(found.use_distributed_optimizer)
    back = {
        "dp": dp,
        "tp": found.tensor_model_parallel_size,
        "pp": found.pipeline_model_parallel_size,
        "vp": found.num_virtual_stages_per_pipeline_rank or 1,
        "cp": found.context_parallel_size,
        "ep": found.expert_model_parallel_size,
        "zero_stage": zero,
        "recompute": RECOMPUTE.index(found.recompute_granularity or "none"),
        "micro_batch": found.micro_batch_size,
        "grad_accum": found.global_batch_size // (dp * found.micro_batch_size),
        "sequence_parallel": int(found.sequence_parallel),
        "offload": int(found.optimizer_cpu_offload) + any("optimizer states to the host only" in note for note in emitted.notes),
    }
    assert back == {name: layout[name] for name in back}
    stages = back["pp"] * back["vp"]
    spare = found.account_for_embedding_in_pipeline_split + found.account_for_loss_in_pipeline_split
    assert ((job.architecture.n_layers + spare) % stages == 0) != any("splits layers" in note for note in emitted.notes)
    assert (found.num_layers, found.hidden_size) == (job.architecture.n_layers, job.architecture.d_model)
    assert found.bf16
    assert (found.fp8_format == "hybrid") == (job.precision == "fp8")
    assert (found.num_experts or 0) == (8 if job.architecture is MOE else 0)


def test_layers_of_several_kinds_have_no_plain_megatron_flags() -> None:
    sliding = Attention(kind="sliding", n_heads=32, n_kv_heads=8, head_dim=128, window_tokens=1024)
    plain = dense()
    mixed = replace(plain, blocks=(*plain.blocks, Block(n_layers=2, attention=sliding, feedforward=plain.blocks[0].feedforward)))
    with pytest.raises(InputError, match="torchtitan"):
        megatron(train_job(mixed), {**CASES[0][1]})


def test_devices_that_are_no_whole_nodes_are_refused() -> None:
    with pytest.raises(InputError, match="plan for a multiple of 8"):
        trimtab(train_job(n=12), OURS_FIRST, "m")
    small = trimtab(replace(train_job(n=4), device=GB80), OURS_FIRST, "m")
    assert "--nnodes=1 --nproc-per-node=4 --standalone" in small.files["train.sh"]


def test_toml_of_every_plain_value() -> None:
    values = {"a": 1, "b": 1.5e11, "c": True, "d": 'x"\\\n\t', "e": ["a", 2], "f": 0.1}
    assert tomllib.loads(toml_text({"t.u": values}))["t"]["u"] == values


def test_shapes_that_torchtitan_has_are_called_by_its_names() -> None:
    job, layout = CASES[0]
    known = torchtitan(replace(job, architecture=architecture("meta-llama/Llama-3.1-8B")), layout)
    assert tomllib.loads(known.files["torchtitan.toml"])["model"] == {"name": "llama3", "flavor": "8B"}
    assert not any("Fill in" in note for note in known.notes)
    assert any("Fill in" in note for note in torchtitan(job, layout).notes)
    assert all(architecture(name).name == name for name in TORCHTITAN_MODELS)
