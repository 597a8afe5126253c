"""Rails of NeMo Guardrails as one guard. Its package, and the models its rails ask, are the user's to install."""

from collections.abc import Mapping
from typing import Any

from trimtab.core.errors import InputError
from trimtab.core.guarding import Finding, Side
from trimtab.guard.base import Guard, GuardFailed, check_options, missing, text_option


class NemoRails(Guard):
    """Options: `config`, the folder of a rails configuration. Its input rails judge requests, its output rails answers."""

    name = "nemo"
    waits = True
    stride_chars = 1200

    def __init__(self, options: Mapping[str, Any], *, side: Side, time_limit_s: float) -> None:
        check_options(self.name, options, ("config",))
        super().__init__(options, side=side, time_limit_s=time_limit_s)
        folder = text_option(self.name, options, "config")
        try:
            from nemoguardrails import LLMRails, RailsConfig
        except ImportError as error:
            raise missing(self.name, "nemoguardrails", "pip install nemoguardrails") from error
        try:
            self._rails = LLMRails(RailsConfig.from_path(folder))
        except Exception as error:
            raise InputError(f"NeMo Guardrails cannot open the configuration {folder!r} ({type(error).__name__}).") from error

    def check(self, text: str, start: int = 0) -> tuple[Finding, ...]:
        if start:
            return ()
        role = "user" if self.side == "in" else "assistant"
        try:
            result = self._rails.check([{"role": role, "content": text}])
        except Exception as error:
            raise GuardFailed(f"NeMo Guardrails failed ({type(error).__name__})") from error
        status = str(getattr(result.status, "value", result.status)).lower()
        if status == "passed":
            return ()
        rail = str(getattr(result, "rail", "") or "a rail")
        changed = status == "modified"
        return (
            Finding(
                rule=f"nemo.{status}",
                start=0,
                end=len(text),
                reason=f"NeMo Guardrails: {rail} {'changed' if changed else 'blocked'} it",
                score=0.9,
                replacement=str(result.content) if changed else "[REMOVED]",
            ),
        )
