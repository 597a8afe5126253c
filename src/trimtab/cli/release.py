"""`trimtab release`: propose, approve, promote, roll back; who decided what, on which evidence, and what served when."""

from collections.abc import Callable
from typing import Any

import click

from trimtab.cli.cache import age
from trimtab.cli.options import Common, common, option
from trimtab.cli.release_push import push
from trimtab.core.errors import EXIT_FAILED


def acting(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds --as and --ledger."""
    named = option("--as", "by", default="", metavar="NAME", help="Who you are, of those in the ledger; default the only one there is.")
    decorated: Callable[..., Any] = named(reading(command))
    return decorated


def reading(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds --ledger."""
    where = "postgresql://USER@HOST/DATABASE or sqlite:///FILE; default a file under TRIMTAB_HOME."
    decorated: Callable[..., Any] = option("--ledger", default="", metavar="URL", help=where)(command)
    return decorated


def pairs(_: Any, __: Any, values: tuple[str, ...]) -> dict[str, str]:
    """`MODEL=SPDX`, the model's name with = in it or not."""
    found = {}
    for value in values:
        model, equals, licence = value.rpartition("=")
        if not equals or not model.strip("= ") or not licence.strip():
            raise click.BadParameter(f"{value!r} says no licence; write it as MODEL=Apache-2.0.")
        found[model.strip()] = licence.strip()
    return found


def saying_licences(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds --licence and --licence-source."""
    told = "Licence of a model that nothing here tells; may be repeated."
    where = option("--licence-source", default="", metavar="URL", help="Where that licence can be read.")
    decorated: Callable[..., Any] = option("--licence", multiple=True, callback=pairs, metavar="MODEL=SPDX", help=told)(where(command))
    return decorated


@click.group(short_help="Who approved what, on which evidence; what serves now, and what served then.")
def release() -> None:
    """From a finished run to what an alias points at. Every step is an entry of a ledger that only grows, judged by the release's rules.

    Exit codes: 0 done, 1 a promotion is refused (all reasons are listed), 2 wrong input or not allowed, 3 something is missing.

    \b
    trimtab release people add alice
    trimtab release use --template > use.toml
    trimtab release create runs/demo --name support-chat --use use.toml --as alice
    trimtab release approve support-chat@1 --as bob --note "read the report"
    trimtab release promote support-chat@1 --to production --as alice
    trimtab release rollback support-chat --to @1 --as alice
    trimtab release history support-chat --at "2026-11-01 12:00"
    """


@release.command(short_help="Propose what a finished run chose.")
@click.argument("run")
@option("--name", required=True, metavar="NAME", help="What it is released as; the number is the next one of that name.")
@option("--use", metavar="FILE", help="Its intended use (use.toml); without it the release is a draft.")
@option(
    "--rules",
    default="",
    metavar="NAME|FILE",
    help="standard, two-person or a TOML file; default those of the release promoted last, else standard.",
)
@saying_licences
@acting
@common
def create(
    *,
    run: str,
    name: str,
    use: str | None,
    rules: str,
    licence: dict[str, str],
    licence_source: str,
    by: str,
    ledger: str,
    common: Common,
) -> int:
    """Propose what the run in folder RUN chose as the next release of NAME: its evidence is kept, and it waits for approval."""
    from trimtab.cli.output import emit
    from trimtab.cli.release_views import created_view
    from trimtab.flows.release import create as flow

    row = flow(run, name=name, use=use, rules=rules, said=licence, said_source=licence_source, by=by, ledger=ledger)
    emit(common, row, created_view(row))
    return 0


@release.command(short_help="The questions on its intended use, or the answers to them.")
@click.argument("release_id", metavar="[RELEASE]", required=False)
@click.argument("file", required=False)
@option("--template", is_flag=True, help="Print a use.toml to fill in.")
@option("--rules", default="", metavar="NAME|FILE", help="Whose required questions the template marks; default standard.")
@saying_licences
@acting
@common
def use(
    *,
    release_id: str | None,
    file: str | None,
    template: bool,
    rules: str,
    licence: dict[str, str],
    licence_source: str,
    by: str,
    ledger: str,
    common: Common,
) -> int:
    """Fill in the use of RELEASE from FILE, or say licences, until it serves for the first time. Approvals from before end with it."""
    from trimtab.cli.output import emit
    from trimtab.cli.release_views import created_view
    from trimtab.flows.release import complete
    from trimtab.flows.release import template as text

    if template:
        if common.as_json:
            emit(common, {"template": text(rules)}, ())
        else:
            click.echo(text(rules), nl=False)  # a file to keep: never wrapped to the width of a terminal
        return 0
    if release_id is None or not (file or licence):
        raise click.UsageError("Name a release and a use.toml, or print one to fill in with --template.", click.get_current_context())
    row = complete(release_id, use=file, said=licence, said_source=licence_source, by=by, ledger=ledger)
    emit(common, row, created_view(row))
    return 0


@release.command(short_help="Say yes to a release as it is now.")
@click.argument("release_id", metavar="RELEASE")
@option("--note", default="", metavar="TEXT", help="What you looked at, and why it is good enough.")
@acting
@common
def approve(*, release_id: str, note: str, by: str, ledger: str, common: Common) -> int:
    """Approve RELEASE (support-chat@3). It takes the role approver, and most rules want somebody else than who proposed it."""
    from trimtab.cli.output import emit
    from trimtab.cli.release_views import approved_view
    from trimtab.flows.release import approve as flow

    row = flow(release_id, note=note, by=by, ledger=ledger)
    emit(common, row, approved_view(row))
    return 0


@release.command(short_help="Answer for a gate that did not pass, for a time.")
@click.argument("release_id", metavar="RELEASE")
@option("--gate", required=True, metavar="NAME", help="The gate, one waiver each.")
@option("--reason", required=True, metavar="TEXT", help="Why it may serve all the same.")
@option("--lasts", required=True, type=age, metavar="AGE", help="How long the waiver counts: 12h, 14d.")
@acting
@common
def waive(*, release_id: str, gate: str, reason: str, lasts: float, by: str, ledger: str, common: Common) -> int:
    """Waive one gate of RELEASE. It takes the role approver and never whoever proposed it; the ledger keeps name, reason and expiry."""
    from trimtab.cli.output import emit
    from trimtab.cli.release_views import waived_view
    from trimtab.flows.release import waive as flow

    row = flow(release_id, gate, reason=reason, lasts_s=lasts, by=by, ledger=ledger)
    emit(common, row, waived_view(row, gate))
    return 0


@release.command(short_help="Point an alias at a release.")
@click.argument("release_id", metavar="RELEASE")
@option("--to", default="production", show_default=True, metavar="ALIAS", help="production, staging, or any name.")
@option("--note", default="", metavar="TEXT", help="Why now.")
@acting
@common
def promote(*, release_id: str, to: str, note: str, by: str, ledger: str, common: Common) -> int:
    """Point an alias at RELEASE. Refused, with every reason and exit code 1, unless all that its rules ask for is there."""
    from trimtab.cli.output import emit
    from trimtab.cli.release_views import promoted_view
    from trimtab.flows.release import promote as flow

    row = flow(release_id, to=to, note=note, by=by, ledger=ledger)
    emit(common, row, promoted_view(row))
    return 0 if row["promoted"] else EXIT_FAILED


@release.command(short_help="Point an alias back at a release that served before; at once.")
@click.argument("name")
@option("--to", required=True, metavar="@N", help="The release to go back to; it must have been live on the alias.")
@option("--alias", default="", metavar="ALIAS", help="Default the only alias there is, else production.")
@option("--note", default="", metavar="TEXT", help="What went wrong.")
@acting
@common
def rollback(*, name: str, to: str, alias: str, note: str, by: str, ledger: str, common: Common) -> int:
    """Point an alias of NAME back at an earlier release. It takes the role operator and no approval: that was given then."""
    from trimtab.cli.output import emit
    from trimtab.cli.release_views import rolled_back_view
    from trimtab.flows.release import rollback as flow

    row = flow(name, to=to, alias=alias, note=note, by=by, ledger=ledger)
    emit(common, row, rolled_back_view(row))
    return 0


@release.command(short_help="Take a release that serves nowhere out of use.")
@click.argument("release_id", metavar="RELEASE")
@option("--reason", default="", metavar="TEXT", help="Why.")
@acting
@common
def retire(*, release_id: str, reason: str, by: str, ledger: str, common: Common) -> int:
    """Retire RELEASE: nothing points at it, and nothing will again."""
    from trimtab.cli.output import emit
    from trimtab.cli.release_views import ended_view
    from trimtab.flows.release import retire as flow

    row = flow(release_id, reason=reason, by=by, ledger=ledger)
    emit(common, row, ended_view(row))
    return 0


@release.command(short_help="End a release for good, wherever it serves.")
@click.argument("release_id", metavar="RELEASE")
@option("--reason", required=True, metavar="TEXT", help="Why.")
@acting
@common
def revoke(*, release_id: str, reason: str, by: str, ledger: str, common: Common) -> int:
    """Revoke RELEASE. Aliases that point at it point at nothing until another one is promoted or rolled back to."""
    from trimtab.cli.output import emit
    from trimtab.cli.release_views import ended_view
    from trimtab.flows.release import revoke as flow

    row = flow(release_id, reason=reason, by=by, ledger=ledger)
    emit(common, row, ended_view(row))
    return 0


@release.command(short_help="A release as it stands, and what it still lacks.")
@click.argument("release_id", metavar="RELEASE")
@reading
@common
def show(*, release_id: str, ledger: str, common: Common) -> int:
    """Show RELEASE: support-chat@3, support-chat@production, or support-chat for the last one."""
    from trimtab.cli.output import emit
    from trimtab.cli.release_views import release_view
    from trimtab.flows.release import show as flow

    row = flow(release_id, ledger=ledger)
    emit(common, row, release_view(row))
    return 0


@release.command("list", short_help="All releases, with their states.")
@click.argument("name", required=False)
@reading
@common
def list_(*, name: str | None, ledger: str, common: Common) -> int:
    """Releases (of NAME) in the order in which they were proposed."""
    from trimtab.cli.output import emit
    from trimtab.cli.release_views import list_view
    from trimtab.flows.release import list_releases

    found = list_releases(name or "", ledger=ledger)
    emit(common, found, list_view(found))
    return 0


@release.command(short_help="What each alias served at a time, and why.")
@click.argument("name")
@option("--at", default="", metavar="TIME", help="'2026-11-01 12:00' (UTC) or any ISO 8601; default now.")
@reading
@common
def history(*, name: str, at: str, ledger: str, common: Common) -> int:
    """What the aliases of NAME pointed at, who decided that on which evidence, and every change up to then."""
    from trimtab.cli.output import emit
    from trimtab.cli.release_views import history_view
    from trimtab.flows.release import history as flow

    found = flow(name, at=at, ledger=ledger)
    emit(common, found, history_view(found))
    return 0


@release.command(short_help="Write what `trimtab serve` takes: the lock, and a site with its guards.")
@click.argument("release_id", metavar="RELEASE")
@option("--out", required=True, metavar="DIR", help="A new folder.")
@reading
@common
def site(*, release_id: str, out: str, ledger: str, common: Common) -> int:
    """Write deploy.toml and a site.toml for RELEASE, with the guards that its rules and its prohibited uses name."""
    from trimtab.cli.output import emit
    from trimtab.cli.release_views import site_view
    from trimtab.flows.release import site_files

    found = site_files(release_id, out, ledger=ledger)
    emit(common, found, site_view(found))
    return 0


release.add_command(push)


@release.command("sign-weights", short_help="Sign weights in the OpenSSF's form, which others can check.")
@click.argument("path")
@option("--out", default="", metavar="FILE", help="The signature; default model.sig beside the weights.")
@common
def sign_weights(*, path: str, out: str, common: Common) -> int:
    """Sign every file in PATH, a folder or a file, with this installation's key for weights (ECDSA), and no network.

    Needs the extra `sign`. `trimtab verify weights PATH` checks it, and so does model-signing's own command.
    """
    from trimtab.cli.output import emit
    from trimtab.flows.weights import sign

    found = sign(path, out=out)
    emit(common, found, (f"Signed: {found['signature']}", f"Its public key: {found['public_key']}"))
    return 0


@release.group(short_help="Who may do what, and the keys that they sign with.")
def people() -> None:
    """People in the ledger. viewer: reads. operator: proposes, promotes, rolls back, retires. approver: approves, waives, adds people.
    auditor: reads, verifies, notes incidents. The first person gets all roles.
    """


@people.command("add", short_help="Add somebody, or change their roles or key.")
@click.argument("name")
@option("--roles", default="", metavar="ROLES", help="Of viewer, operator, approver, auditor, by commas; default viewer.")
@option("--public-key", default="", metavar="HEX|FILE", help="Of a key made elsewhere (`people key`); default one that is made here.")
@acting
@common
def add(*, name: str, roles: str, public_key: str, by: str, ledger: str, common: Common) -> int:
    """Add NAME with a key to sign with. It takes the role approver; the first person of a ledger adds itself and gets all roles."""
    from trimtab.cli.keys import names
    from trimtab.cli.output import emit
    from trimtab.cli.release_views import added_view
    from trimtab.flows.people import add_person

    row = add_person(name, roles=names(roles), public_key=public_key, by=by, ledger=ledger)
    emit(common, row, added_view(row))
    return 0


@people.command("key", short_help="Make your key here, and show its public half.")
@click.argument("name")
@common
def key(*, name: str, common: Common) -> int:
    """Make a key for NAME here, if there is none, and print its public half for whoever adds NAME to a ledger."""
    from rich.text import Text

    from trimtab.cli.output import emit
    from trimtab.flows.people import make_key

    row = make_key(name)
    emit(common, row, [Text(row["public_key"]), Text(f"{row['key_file']} holds the private half; it stays here.", style="dim")])
    return 0


@people.command("list", short_help="Everybody, with roles.")
@reading
@common
def list_people(*, ledger: str, common: Common) -> int:
    """Everybody in the ledger, with roles, and whether their key is here."""
    from trimtab.cli.output import emit
    from trimtab.cli.release_views import people_view
    from trimtab.flows.people import list_people as flow

    rows = flow(ledger=ledger)
    emit(common, rows, people_view(rows))
    return 0
