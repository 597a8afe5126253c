"""Scanners of LLM Guard as one guard. Its package and models are the user's to install; nothing of it is imported unasked."""

from collections.abc import Mapping
from typing import Any

from trimtab.core.errors import InputError
from trimtab.core.guarding import Finding, Side
from trimtab.guard.base import Guard, GuardFailed, check_options, missing


class LlmGuard(Guard):
    """Options: `scanners`, a table of scanner names with their settings: `scanners = { PromptInjection = { threshold = 0.9 } }`.

    What a scanner finds concerns the whole text; redacting puts the scanner's own version of the text in its place.
    """

    name = "llm-guard"
    waits = True  # its scanners run models: seconds, not microseconds
    stride_chars = 1200

    def __init__(self, options: Mapping[str, Any], *, side: Side, time_limit_s: float) -> None:
        check_options(self.name, options, ("scanners",))
        super().__init__(options, side=side, time_limit_s=time_limit_s)
        wanted = options.get("scanners")
        if not isinstance(wanted, Mapping) or not wanted or not all(isinstance(one, Mapping) for one in wanted.values()):
            raise InputError(f"Guard {self.name!r} needs `scanners`, a table of LLM Guard's scanners with their settings.")
        try:
            if side == "in":
                from llm_guard import input_scanners as module
            else:
                from llm_guard import output_scanners as module
        except ImportError as error:
            raise missing(self.name, "llm-guard", "pip install llm-guard") from error
        unknown = [name for name in wanted if not hasattr(module, name)]
        if unknown:
            raise InputError(f"The installed LLM Guard has no scanner {unknown[0]!r} for {side} texts.")
        self._scanners = {name: getattr(module, name)(**settings) for name, settings in wanted.items()}

    def check(self, text: str, start: int = 0) -> tuple[Finding, ...]:
        found: list[Finding] = []
        if start:
            return ()
        for name, scanner in self._scanners.items():
            try:
                sanitized, is_valid, risk = scanner.scan(text) if self.side == "in" else scanner.scan("", text)
            except Exception as error:
                raise GuardFailed(f"LLM Guard's {name} failed ({type(error).__name__})") from error
            if not is_valid:
                found.append(
                    Finding(
                        rule=f"llm-guard.{name.lower()}",
                        start=0,
                        end=len(text),
                        reason=f"LLM Guard's scanner {name} says no",
                        score=min(1.0, max(0.0, float(risk))),
                        replacement=sanitized if sanitized != text else "[REMOVED]",
                    )
                )
        return tuple(found)
