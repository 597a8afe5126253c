"""The `trimtab` command: verbs by name, settings, and what every kind of ending looks like.

Results go to stdout, everything else to stderr. Exit codes are those of core/errors.py.
"""

import contextlib
import errno
import io
import os
import sys
import tempfile
import traceback
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import click
from click.core import ParameterSource

from trimtab.cli.late_group import LateGroup
from trimtab.cli.options import State, defaults_from, read_settings
from trimtab.cli.pipes import silence_stdout
from trimtab.core.errors import EXIT_BUG, EXIT_INPUT, EXIT_INTERRUPTED, EXIT_MISSING, EXIT_PASSED, TrimtabError

VERBS = {
    "describe": ("trimtab.cli.describe", "What a model is, layer by layer, and what a token costs."),
    "compare": ("trimtab.cli.compare", "Is B no worse than A, and how much faster?"),
    "optimize": ("trimtab.cli.optimize", "Find the fastest way to run a model here that is shown to be no worse."),
    "evaluate": ("trimtab.cli.evaluate", "How good, fair and safe a model is on suites of items, with intervals."),
    "certify": ("trimtab.cli.certify", "The full gate on what a run chose, and what that shows."),
    "check": ("trimtab.cli.check", "Is what we deploy still what was certified, and still no worse?"),
    "train": ("trimtab.cli.train", "Train a model further, heal what compression broke, or make it fairer."),
    "fairness": ("trimtab.cli.fairness", "Are decisions alike for every group? Of any model, or of the data before training."),
    "serve": ("trimtab.cli.serve", "Answer requests: an OpenAI-compatible server for what was certified."),
    "export": ("trimtab.cli.export", "What was certified as an artifact, an image, a bundle, a manifest or a card."),
    "import": ("trimtab.cli.import_", "A package as a folder again, checked: what a registry or a colleague gave you."),
    "runs": ("trimtab.cli.runs", "Earlier runs: list them, show one, tell two apart, remove them."),
    "release": ("trimtab.cli.release", "Who approved what, on which evidence; what serves now, and what served then."),
    "incident": ("trimtab.cli.incident", "What went wrong in use and what it did to people: note it, follow it, close it."),
    "plan": ("trimtab.cli.plan", "Which hardware and layout, how fast, for how much, and how sure? For training and serving."),
    "ui": ("trimtab.cli.ui", "A page where a team sees it all: releases, runs, live traffic, incidents."),
    "watch": ("trimtab.cli.watch", "Is it still fast, safe and fair? Alarms on live traffic or on a log, and what comes of them."),
    "keys": ("trimtab.cli.keys", "API keys for the gateway: make, list, rotate and revoke them."),
    "verify": ("trimtab.cli.verify", "Is what was kept still what was written? Releases, the ledger, logs, and who signed them."),
    "weights": ("trimtab.cli.weights", "Weights to many nodes: each that has some gives them on, and each checks every byte."),
    "cache": ("trimtab.cli.cache", "What trimtab keeps because it can be made again; show and prune it."),
    "doctor": ("trimtab.cli.doctor", "What this machine has, what is missing, and how to get it."),
}


class Verbs(LateGroup):
    """The verbs; a word that is none is told so, with those that are."""

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in VERBS and not args[0].startswith("-"):
            raise click.UsageError(f"There is no verb {args[0]!r}; the verbs are {', '.join(VERBS)}.", ctx)
        return super().resolve_command(ctx, args)


@click.group(cls=Verbs, late=VERBS, section="Verbs", context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="trimtab", prog_name="trimtab", message="%(prog)s %(version)s")
@click.pass_context
def cli(ctx: click.Context) -> None:
    """Find the fastest way to run an open model on your hardware that is shown to be no worse than the original.

    Exit codes: 0 passed, 1 the answer is no, 2 wrong input, 3 something is missing (the fix is named), 4 inconclusive, 70 a bug of
    trimtab, 130 interrupted (the same command goes on).
    """
    found = read_settings(Path.cwd())
    if found:
        path, settings = found
        ctx.ensure_object(State).settings_file = path
        commands = {name: command for name in VERBS if (command := cli.get_command(ctx, name)) is not None}
        ctx.default_map = defaults_from(path, settings, commands)


def main(args: Sequence[str] | None = None) -> int:
    """Run a command line and return its exit code. Never raises: every ending has its sentence on stderr and its code."""
    state = State()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal without × and − shows ? instead
    try:
        code = cli.main(args=None if args is None else list(args), prog_name="trimtab", standalone_mode=False, obj=state)
        _flush()
        return code if isinstance(code, int) else EXIT_PASSED
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.ctx.get_help() if error.ctx else error.format_message(), err=True)
        return EXIT_INPUT
    except click.ClickException as error:
        say(_usage_sentence(error, state))
        return EXIT_INPUT
    except (KeyboardInterrupt, click.Abort):
        say(f"Interrupted. {state.resume}")
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        silence_stdout()
        return EXIT_PASSED
    except TrimtabError as error:
        if error.exit_code == EXIT_BUG:
            return _bug(error, state)
        say(str(error))
        if state.verbose:
            traceback.print_exc()
        return error.exit_code
    except OSError as error:
        sentence, code = _os_sentence(error)
        if not sentence:
            return _bug(error, state)
        say(sentence)
        return code
    except MemoryError:
        say("There is not enough memory for this. Fix: close other programs or take a smaller model.")
        return EXIT_MISSING
    except Exception as error:
        return _bug(error, state)


def say(sentence: str) -> None:
    """One sentence on stderr. A closed stderr is no reason to fail."""
    with contextlib.suppress(OSError):
        click.echo(f"trimtab: {sentence}", err=True)


def _usage_sentence(error: click.ClickException, state: State) -> str:
    """Click's message, with where the wrong value came from and where help is."""
    sentence = error.format_message().rstrip(".").replace("\n", " ")
    ctx = getattr(error, "ctx", None)
    parameter = getattr(error, "param", None)
    if ctx is None:
        return f"{sentence}."
    if parameter is not None and parameter.name:
        source = ctx.get_parameter_source(parameter.name)
        if source is ParameterSource.DEFAULT_MAP:
            sentence += f" (set in {state.settings_file})"
        elif source is ParameterSource.ENVIRONMENT:
            sentence += f" (set by {parameter.envvar})"
    return f"{sentence}. See `{ctx.command_path} --help`."


def _os_sentence(error: OSError) -> tuple[str, int]:
    """What the system refused, with its exit code; empty for what a user cannot mend."""
    where = f" ({error.filename})" if error.filename else ""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return (
            f"The disk is full{where}. Fix: free some space, or point TRIMTAB_HOME to another disk; then run the command again.",
            EXIT_MISSING,
        )
    if error.errno == errno.EROFS:
        return f"The file system cannot be written to{where}. Fix: choose another folder with --out or TRIMTAB_HOME.", EXIT_MISSING
    if error.errno in (errno.EACCES, errno.EPERM):
        return f"Permission denied{where}. Choose another folder or change its permissions.", EXIT_INPUT
    if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG) and error.filename:
        return f"{os.strerror(error.errno)}{where}. Check the path.", EXIT_INPUT
    return "", EXIT_BUG


def _bug(error: BaseException, state: State) -> int:
    """Keeps the traceback in a file that a report can carry, and shows it only when asked."""
    text = "".join(traceback.format_exception(error))
    if state.verbose:
        click.echo(text, err=True, nl=False)
    where = "run again with -v to see the traceback"
    with contextlib.suppress(OSError):
        handle, name = tempfile.mkstemp(prefix="trimtab-bug-", suffix=".txt")
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(f"trimtab {version('trimtab')}, Python {sys.version}\n{' '.join(sys.argv)}\n\n{text}")
        where = f"please report it with the file {name}"
    first_line = str(error).partition("\n")[0]
    say(f"This is a bug of trimtab ({type(error).__name__}: {first_line}); {where}.")
    return EXIT_BUG


def _flush() -> None:
    """Meet a closed pipe here and not in the interpreter's last breath."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        silence_stdout()
