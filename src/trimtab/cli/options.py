"""Options that every verb shares, and where values come from: the flag, then TRIMTAB_*, then trimtab.toml or pyproject.toml."""

import functools
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from trimtab.cli.durations import duration
from trimtab.core.errors import InputError


@dataclass
class State:
    """What main() must know after a command has ended in an error. The one mutable object of the room, made once a call.

    settings_file: where defaults came from, None if there is no such file
    resume: how an interrupted command goes on, in one sentence
    """

    verbose: bool = False
    settings_file: Path | None = None
    resume: str = "Run the command again."


@dataclass(frozen=True, kw_only=True)
class Common:
    """The options of every verb. time_limit: seconds, None = no limit."""

    as_json: bool
    quiet: bool
    verbose: bool
    no_color: bool
    offline: bool
    time_limit: float | None
    seed: int


def option(*flags: str, **attributes: Any) -> Callable[[Any], Any]:
    """A click option that can also be given as TRIMTAB_<NAME> and in the settings file."""
    name = flags[0].partition("/")[0].lstrip("-").replace("-", "_")
    return click.option(*flags, envvar=f"TRIMTAB_{name.upper()}", **attributes)


def common(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds --json, -q, -v, --no-color, --offline, --time-limit and --seed; the command gets them as one `common` argument."""

    @functools.wraps(command)
    def packed(
        *, as_json: bool, quiet: bool, verbose: bool, no_color: bool, offline: bool, time_limit: float | None, seed: int, **own: Any
    ) -> Any:
        click.get_current_context().ensure_object(State).verbose = verbose
        shared = Common(as_json=as_json, quiet=quiet, verbose=verbose, no_color=no_color, offline=offline, time_limit=time_limit, seed=seed)
        return command(common=shared, **own)

    decorated: Callable[..., Any] = packed
    for decorate in (
        option("--seed", type=click.IntRange(0, 2**32 - 1), default=0, show_default=True, help="Start of all random choices."),
        option("--time-limit", type=duration, metavar="TIME", help="Start no new work after this: 90s, 10m, 1h30m."),
        option("--offline", is_flag=True, help="Use only what is on this machine."),
        option("--no-color", is_flag=True, help="No colours (NO_COLOR is honoured too)."),
        option("--verbose", "-v", is_flag=True, help="Every step as a line of its own; a traceback with a bug."),
        option("--quiet", "-q", is_flag=True, help="No progress."),
        option("--json", "as_json", is_flag=True, help="Print one JSON object instead of tables."),
    ):
        decorated = decorate(decorated)
    return decorated


def clustered(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds --cluster and --cluster-store; the command gets them as `cluster` and `cluster_store`, both empty without a cluster."""
    for decorate in (
        option(
            "--cluster-store",
            default="",
            metavar="PLACE",
            help="Where the cluster's results go: a folder that all nodes see, or a URL, s3://bucket/trimtab. [default: the cache folder]",
        ),
        option(
            "--cluster",
            default="",
            metavar="ADDRESS",
            help="Score on a Ray cluster: ray://HOST:10001, auto on one of its nodes; or local:N.",
        ),
    ):
        command = decorate(command)
    return command


def read_settings(folder: Path) -> tuple[Path, Mapping[str, Any]] | None:
    """trimtab.toml of a folder, else [tool.trimtab] of its pyproject.toml, else None. Raises InputError for TOML that cannot be read."""
    own, shared = folder / "trimtab.toml", folder / "pyproject.toml"
    try:
        if own.exists():
            return own, tomllib.loads(own.read_text(encoding="utf-8"))
        if shared.exists():
            table = tomllib.loads(shared.read_text(encoding="utf-8")).get("tool", {}).get("trimtab")
            if isinstance(table, dict):
                return shared, table
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise InputError(f"The settings in {folder} cannot be read ({error}); correct the file or remove it.") from error
    return None


def option_names(command: click.Command) -> dict[str, click.Option]:
    """The options of a command by the name a settings file uses: `time_limit` for --time-limit."""
    options = [parameter for parameter in command.params if isinstance(parameter, click.Option)]
    return {max(option.opts, key=len).lstrip("-").replace("-", "_"): option for option in options}


def defaults_from(path: Path, settings: Mapping[str, Any], commands: Mapping[str, click.Command]) -> dict[str, dict[str, Any]]:
    """A settings file as click's default_map: each verb's table over the top-level keys that the verb has as options.

    Raises InputError for a key that is no option, or a table that is no verb: a misspelt setting must not be ignored.
    """
    tables = {key: value for key, value in settings.items() if isinstance(value, dict)}
    plain = {_key(key): value for key, value in settings.items() if not isinstance(value, dict)}
    for verb in tables:
        if verb not in commands:
            raise InputError(f"{path}: [{verb}] is no verb; the verbs are {', '.join(sorted(commands))}.")
    known = {verb: option_names(command) for verb, command in commands.items()}
    for key in plain:
        if not any(key in names for names in known.values()):
            raise InputError(f"{path}: {key!r} is no option of any verb; see `trimtab VERB --help`.")
    defaults: dict[str, dict[str, Any]] = {}
    for verb, names in known.items():
        own = {_key(key): value for key, value in tables.get(verb, {}).items()}
        for key in own:
            if key not in names:
                raise InputError(f"{path}: {key!r} in [{verb}] is no option; see `trimtab {verb} --help`.")
        values = {key: value for key, value in plain.items() if key in names} | own
        defaults[verb] = {str(names[key].name): _as_many(names[key], value) for key, value in values.items()}
    return defaults


def _key(name: str) -> str:
    return name.replace("-", "_")


def _as_many(option: click.Option, value: Any) -> Any:
    """One value given for an option that may be repeated stands for itself, not for its characters."""
    return [value] if option.multiple and not isinstance(value, list) else value
