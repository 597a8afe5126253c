"""Every error trimtab raises on purpose, with the exit code its command ends with.

TrimtabError                70  our bug, when nothing below fits
├── InputError               2  the user's input is wrong: what, where, what to do
│   └── TextTooLong              it has more tokens than fit
├── MissingError             3  the environment lacks something; the fix is named
├── StoppedError           130  a person or the time limit stopped it; the same command goes on
└── InfeasibleError          1  this deployment cannot run here; a result, not the end of a run
    ├── EngineCrashed            the worker process died (signal, exit code, last words)
    ├── EngineHung               the worker did not answer in time and was killed
    └── EngineRefused            the engine cannot do this (unsupported model, setting or operation)
"""

EXIT_PASSED = 0
EXIT_FAILED = 1
EXIT_INPUT = 2
EXIT_MISSING = 3
EXIT_INCONCLUSIVE = 4
EXIT_BUG = 70
EXIT_INTERRUPTED = 130


class TrimtabError(Exception):
    """Base of all errors raised on purpose. `str(error)` is one sentence fit for a terminal."""

    exit_code = EXIT_BUG


class InputError(TrimtabError):
    """The input is wrong. The message says what, where and what to do."""

    exit_code = EXIT_INPUT


class TextTooLong(InputError):
    """A text has more tokens than fit: `least_tokens` or more. It was not tokenized."""

    def __init__(self, least_tokens: int) -> None:
        super().__init__(f"The text has at least {least_tokens} tokens, more than fit; send less.")
        self.least_tokens = least_tokens


class MissingError(TrimtabError):
    """The environment lacks something: a package, a tool, memory, disk. `fix` is the command or step that mends it."""

    exit_code = EXIT_MISSING

    def __init__(self, message: str, fix: str = "") -> None:
        super().__init__(f"{message} Fix: {fix}" if fix else message)
        self.fix = fix


class StoppedError(TrimtabError):
    """Stopped before its end, with what was done kept. The message says how it goes on."""

    exit_code = EXIT_INTERRUPTED


class InfeasibleError(TrimtabError):
    """A deployment cannot run here; searches record the reason and go on."""

    exit_code = EXIT_FAILED


class EngineCrashed(InfeasibleError):
    """The worker process died."""


class EngineHung(InfeasibleError):
    """The worker did not answer within its time limit and was killed."""


class EngineRefused(InfeasibleError):
    """The engine states that it cannot do what was asked."""
