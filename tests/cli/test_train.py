"""`trimtab train finetune` from the command line: flags into a configuration, and every wrong input with its sentence and exit code."""

import json
from pathlib import Path
from typing import Any

import pytest

from trimtab.cli.main import main
from trimtab.cli.train_finetune import asked
from trimtab.core.errors import InputError, StoppedError
from trimtab.core.toml import to_toml
from trimtab.core.training import StepRecord, TrainConfig, TrainResult
from trimtab.flows.parts.train_launch import Follow
from trimtab.testing.training_steps import step_of
from trimtab.train.config import config_of

FLAGS: dict[str, Any] = {
    **dict.fromkeys(("tokens", "steps", "epochs", "seq", "batch", "micro_batch", "lr", "lora", "precision")),
    "chat": False,
    "from_scratch": False,
    "tensorboard": False,
    "mlflow": "",
}
CONFIG = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 64,
    "intermediate_size": 176,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "head_dim": 16,
    "vocab_size": 300,
    "max_position_embeddings": 512,
    "tie_word_embeddings": True,
}


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to work in, and a machine of 16 GB that the planner knows."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TRIMTAB_HOME", str(tmp_path / "home"))
    facts = {"fp32_flop_s": 1e11, "matmul_fp32_flop_s": 1e11, "memory_bytes": 16e9, "memory_nominal_bytes": 16e9, "memory_bytes_s": 15e9}
    told = {key: {"value": value, "source": "measured here", "verified": True, "as_of": "2026-11-27"} for key, value in facts.items()}
    table = {"name": "this-machine", "vendor": "unknown", "kind": "cpu", "year": 2026, "aliases": [], "notes": "A machine of this test."}
    (tmp_path / "home" / "hardware").mkdir(parents=True)
    (tmp_path / "home" / "hardware" / "this-machine.toml").write_text(to_toml(table | told))
    (tmp_path / "a.jsonl").write_text('{"text": "a b c"}\n')
    shape(tmp_path / "m")
    return tmp_path


def shape(folder: Path, vocabulary: int = 300, **config: Any) -> None:
    """A model without weights: config.json, and a tokenizer of so many tokens."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(CONFIG | config))
    vocab = {f"t{number}": number for number in range(vocabulary)}
    (folder / "tokenizer.json").write_text(json.dumps({"model": {"type": "BPE", "vocab": vocab, "merges": []}, "added_tokens": []}))


TRAIN = ["train", "finetune", "m", "--from-scratch", "--data", "a.jsonl", "--out", "run"]


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["--data", "none/*.jsonl"], 2, "No file matches none/*.jsonl"),
        (["--batch", "6", "--micro-batch", "4"], 2, "not divisible"),
        (["--batch", "6", "--processes", "4"], 2, "take a multiple of 4"),
        (["--steps", "3", "--tokens", "3k"], 2, "--tokens and --steps say the same in two ways"),
        (["--tokens", "many"], 2, "is no number of tokens"),
        (["--seq", "1"], 2, "--seq"),
        (["--config", "none.toml"], 2, "There is no none.toml"),
        (["--region", "ZZ", "--steps", "3"], 2, "ZZ"),
    ],
)
def test_wrong_input(home: Path, capsys: pytest.CaptureFixture[str], words: list[str], code: int, says: str) -> None:
    given = [word for word in TRAIN if word not in ("--data", "a.jsonl")] + words if "--data" in words else TRAIN + words
    assert main(given) == code
    assert says in capsys.readouterr().err.replace("\n", " ")
    assert not (home / "run" / "steps.jsonl").exists()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["train", "finetune"], "No model was named"),
        (["train", "finetune", "m"], "No data was named"),
        (["train", "finetune", "nowhere", "--data", "a.jsonl"], "nowhere"),
        (["train", "finetune", "m", "--data", "a.jsonl"], "m"),
    ],
    ids=["no model", "no data", "not there", "no weights"],
)
def test_what_is_missing(home: Path, capsys: pytest.CaptureFixture[str], words: list[str], says: str) -> None:
    assert main(words) == 2
    assert says in capsys.readouterr().err


def test_a_tokenizer_of_another_model(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shape(home / "wrong", vocabulary=301)
    assert main(["train", "finetune", "wrong", "--from-scratch", "--data", "a.jsonl"]) == 2
    assert "numbers tokens up to 300, and the model has 300" in capsys.readouterr().err.replace("\n", " ")


def test_a_folder_without_a_tokenizer(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (home / "m" / "tokenizer.json").unlink()
    assert main(TRAIN) == 2
    assert "has no tokenizer" in capsys.readouterr().err


def test_too_little_memory_is_said_before_the_first_step(home: Path, capsys: pytest.CaptureFixture[str], fake_launch: list[Any]) -> None:
    shape(home / "huge", hidden_size=8192, intermediate_size=28672, num_hidden_layers=80, num_attention_heads=64, head_dim=128)
    words = ["train", "finetune", "huge", "--from-scratch", "--data", "a.jsonl", "--steps", "3"]
    assert main(words) == 3
    said = capsys.readouterr().err.replace("\n", " ")
    assert "This training needs about" in said
    assert "there are 16.0 GB" in said
    assert fake_launch == []
    assert main([*words, "--no-plan"]) == 0
    assert len(fake_launch) == 1


@pytest.fixture
def fake_launch(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """In place of processes: writes what they would, and keeps what was asked."""
    calls: list[Any] = []

    def launch(config: TrainConfig, out: Path, *, processes: int, time_limit_s: float | None, follow: Any) -> TrainResult:
        from trimtab.train.config import config_text

        calls.append((config, processes))
        (out / "model").mkdir(parents=True, exist_ok=True)
        (out / "train.toml").write_text(config_text(config))
        steps = tuple(step(number) for number in range(1, 13))
        (out / "steps.jsonl").write_text("".join(json.dumps(vars(one)) + "\n" for one in steps))
        follow(Follow(steps=steps, phase="training", total_steps=12))
        if config.train.steps == 99:
            raise StoppedError("Stopped as asked after step 12; the checkpoint of step 12 is in run. The same command goes on from there.")
        return TrainResult(
            steps=12, tokens_seen=1200, first_loss=3.0, last_loss=0.25, wall_s=6.0, cpu_s=6.0, world=processes, model="model",
            peak_memory_bytes=5 * 10**8,
        )  # fmt: skip

    monkeypatch.setattr("trimtab.flows.train_finetune.launch", launch)
    return calls


def step(number: int) -> StepRecord:
    return step_of(number, loss=3.0 / number, lr=1e-4, peak_memory_bytes=5 * 10**8)


def test_a_run_its_document_and_its_page(home: Path, capsys: pytest.CaptureFixture[str], fake_launch: list[Any]) -> None:
    words = [*TRAIN, "--steps", "12", "--seq", "32", "--processes", "2", "--price-per-hour", "1.8", "--json"]
    assert main(words) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["schema"], found["kind"], found["model"]) == ("trimtab.training/1", "pretrain", "m")
    assert found["cost"]["usd"] == pytest.approx(0.0, abs=0.01)
    assert found["planned"]["n_learnt"] == 2
    assert len((home / "home" / "planner" / "measurements.jsonl").read_text().splitlines()) == 2
    assert {row["quantity"] for row in found["planned"]["met"]} == {"step_time_s", "tok_s", "peak_memory_bytes"}
    assert (home / "run" / "report.html").read_text().count("<svg") == 6
    config, processes = fake_launch[0]
    assert (config.train.seq_tokens, config.model.init, processes) == (32, "random", 2)
    assert Path(config.model.source).is_absolute()
    assert main([word for word in words if word != "--json"]) == 0, "told again, and not trained again"
    assert len(fake_launch) == 1
    assert "3.000 to 0.250 nats a token" in capsys.readouterr().out
    assert main([*words, "--fresh"]) == 0
    assert len(list(home.glob("run.old-*"))) == 1
    assert len(fake_launch) == 2


def test_a_stop_ends_with_130_and_says_how_to_go_on(home: Path, capsys: pytest.CaptureFixture[str], fake_launch: list[Any]) -> None:
    assert main([*TRAIN, "--steps", "99"]) == 130
    assert "The same command goes on from there" in capsys.readouterr().err.replace("\n", " ")


def test_a_folder_that_holds_something_else(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (home / "run").mkdir()
    (home / "run" / "photo.jpg").write_text("x")
    assert main([*TRAIN, "--steps", "3"]) == 2
    assert "holds something that is no training" in capsys.readouterr().err
    assert main([*TRAIN, "--steps", "3", "--fresh"]) == 2
    assert (home / "run" / "photo.jpg").exists()


def test_flags_go_before_the_file(tmp_path: Path) -> None:
    path = tmp_path / "train.toml"
    path.write_text('[model]\nsource = "a"\n[data]\nfiles = ["x"]\n[train]\nsteps = 9\nseq_tokens = 64\n[optimizer]\nlr = 1.0\n')
    plain = config_of(asked(path, None, (), FLAGS, seed=0))
    assert (plain.model.source, plain.train.steps, plain.train.seq_tokens) == ("a", 9, 64)
    told = FLAGS | {"tokens": "2k", "lr": 0.5, "lora": 4, "chat": True}
    mine = config_of(asked(path, "b", ("y", "z"), told, seed=3))
    assert (mine.model.source, mine.data.files, mine.data.chat) == ("b", ("y", "z"), True)
    assert (mine.train.tokens, mine.train.steps, mine.train.seq_tokens, mine.train.seed) == (2000, 0, 64, 3)
    assert (mine.optimizer.lr, mine.model.lora_rank) == (0.5, 4)


def test_without_an_end_it_is_once_over_the_data() -> None:
    assert config_of(asked(None, "m", ("a",), FLAGS, seed=0)).train.epochs == 1.0


def test_a_file_that_is_no_configuration(tmp_path: Path) -> None:
    (tmp_path / "t.toml").write_text("model = 3")
    with pytest.raises(InputError, match=r"write \[model\]"):
        asked(tmp_path / "t.toml", "m", ("a",), FLAGS, seed=0)
    (tmp_path / "t.toml").write_text("model = ")
    with pytest.raises(InputError, match="cannot be read as TOML"):
        asked(tmp_path / "t.toml", "m", ("a",), FLAGS, seed=0)


def test_runs_leaves_trainings_alone(home: Path, capsys: pytest.CaptureFixture[str], fake_launch: list[Any]) -> None:
    assert main([*TRAIN[:-1], "runs/a", "--steps", "12"]) == 0
    (home / "runs" / "a" / "run.json").write_text('{"schema": "trimtab.train/1"}')
    capsys.readouterr()
    assert main(["runs", "list"]) == 0
    assert "damaged" not in capsys.readouterr().out
    assert main(["runs", "show", "runs/a"]) == 2
    assert "is the folder of a training" in capsys.readouterr().err
