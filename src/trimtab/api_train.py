"""Training from Python: `finetune`, `heal` and `debias`, and what they return. Part of the Python API (api.py)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trimtab.flows.events import Event, ignore


@dataclass(frozen=True)
class Trained:
    """What a training left. `document`: train.json, heal.json or debias.json as JSON types; `path`: the run folder."""

    document: dict[str, Any]
    path: Path

    @property
    def model(self) -> Path:
        """The trained model: a Hugging Face directory, or what heal and debias made of it again."""
        return Path(self.document.get("model_folder") or self.document["model"])

    @property
    def verdict(self) -> str:
        """`pass`, `fail` or `inconclusive` of what was judged; empty for a finetuning, which is not."""
        return str(self.document.get("verdict", ""))

    @property
    def passed(self) -> bool:
        return self.verdict == "pass"

    def explain(self) -> str:
        """What came out, in a few sentences."""
        if self.verdict:
            return " ".join([f"{self.verdict}.", *self.document["reasons"]])
        from trimtab.record.train_report import headline

        return f"{headline(self.document)}."

    def _repr_html_(self) -> str:
        """The page, for notebooks; without one, the sentences."""
        from html import escape

        page = self.path / "report.html"
        if not page.is_file():
            return f"<p>{escape(self.explain())}</p>"
        text = escape(page.read_text(encoding="utf-8"))
        return f'<iframe srcdoc="{text}" style="width:100%;height:640px;border:0" title="trimtab train"></iframe>'


def finetune(
    model: str | Path,
    data: str | Path | Sequence[str | Path],
    *,
    out: str | Path,
    processes: int = 1,
    plan: bool = True,
    fresh: bool = False,
    offline: bool = False,
    time_limit_s: float | None = None,
    **settings: Any,
) -> Trained:
    """Train a model on files of text or conversations, as `trimtab train finetune` does.

    settings: keys of train.toml by name: steps=100, seq_tokens=256, lr=1e-4, lora_rank=16, precision="bf16", init="random", chat=True.
        Without tokens, steps or epochs: once over the data. plan: refuse what cannot fit the memory
    A run that is in `out` goes on. Raises InputError, MissingError, InfeasibleError.
    """
    from trimtab.flows.train_finetune import train_finetune
    from trimtab.train.config import config_of, tables_of

    files = [str(one) for one in ([data] if isinstance(data, (str, Path)) else data)]
    if not any(settings.get(name) for name in ("tokens", "steps", "epochs")):
        settings["epochs"] = 1.0
    config = config_of(tables_of({"source": str(model), "files": files, **settings}), "finetune")
    document = train_finetune(
        config,
        out=Path(out),
        processes=processes,
        kind="pretrain" if config.model.init == "random" else "finetune",
        plan=plan,
        fresh=fresh,
        offline=offline,
        time_limit_s=time_limit_s,
    )
    return Trained(document, Path(out))


def heal(run: str | Path, *, out: str | Path, on_event: Callable[[Event], None] = ignore, **asked: Any) -> Trained:
    """Distil the reference of a finished run into one of its compressed candidates and judge it again, as `trimtab train heal` does.

    asked: candidate, tokens, data, lr, policy, suites, processes, judge, fresh, offline, time_limit_s, seed
    Raises InputError, MissingError, InfeasibleError.
    """
    from trimtab.flows.train_heal import train_heal

    return Trained(train_heal(run, out=Path(out), on_event=on_event, **asked), Path(out))


def debias(model: str | Path, *, out: str | Path, on_event: Callable[[Event], None] = ignore, **asked: Any) -> Trained:
    """Train a model to treat groups alike and judge what that cost, as `trimtab train debias` does.

    asked: suites, method, data, tokens, strength, lora_rank, lr, policy, against, processes, judge, fresh, offline, time_limit_s, seed
    Raises InputError, MissingError, InfeasibleError.
    """
    from trimtab.flows.train_debias import train_debias

    return Trained(train_debias(str(model), out=Path(out), on_event=on_event, **asked), Path(out))
