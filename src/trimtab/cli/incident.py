"""`trimtab incident`: what went wrong in use, what it did to people, and who answers for it."""

from collections.abc import Callable
from typing import Any

import click

from trimtab.cli.options import Common, common, option
from trimtab.cli.release import acting, reading

SEVERITY = click.Choice(["low", "moderate", "high", "critical"])
HARM = click.Choice(["health", "death", "infrastructure", "widespread", "rights", "property"])


def _about_incident(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds what may be said of an incident at any time."""
    for decorate in (
        option("--note", metavar="TEXT", help="What is known, or was done."),
        option("--serious", type=HARM, help="Harm that a law may want reported; `show` says by when."),
        option("--alarm", "alarms", multiple=True, metavar="ID", help="An alarm of the watch behind it; may be repeated."),
        option("--affected", multiple=True, metavar="WHO", help="A group of people it touches; may be repeated."),
        option("--owner", metavar="NAME", help="Who answers for it."),
    ):
        command = decorate(command)
    return command


def _about_impact(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds what may be said of an effect at any time."""
    states = click.Choice(["suspected", "confirmed", "mitigated", "dismissed"])
    for decorate in (
        option("--note", metavar="TEXT", help="What is known, or was done."),
        option("--source", "sources", multiple=True, metavar="ID", help="An incident, alarm or request behind it; may be repeated."),
        option("--mitigation", metavar="TEXT", help="What is done against it."),
        option("--group", "groups", multiple=True, metavar="WHO", help="A group of people it touches; may be repeated."),
        option("--owner", metavar="NAME", help="Who answers for it."),
        option("--state", type=states, help="Default for a new one suspected."),
    ):
        command = decorate(command)
    return command


@click.group(short_help="What went wrong in use and what it did to people: note it, follow it, close it.")
def incident() -> None:
    """Incidents and the register of effects on people. Every step is an entry of the ledger, in somebody's name.

    \b
    trimtab incident open "German answers turn English" --about support-chat@3 --severity high --owner alice --affected "German speakers"
    trimtab incident update incident-1 --state contained --note "rolled back to @2"
    trimtab incident impact add "German speakers wait for a person" --about support-chat@3 --severity moderate --source incident-1
    trimtab incident close incident-1 --note "the template dropped the language; fixed in @4"
    trimtab incident list
    """


@incident.command("open", short_help="Note that something went wrong.")
@click.argument("title")
@option("--about", required=True, metavar="RELEASE", help="A release (support-chat@3, support-chat@production) or a model.")
@option("--severity", type=SEVERITY, required=True, help="How bad it is.")
@_about_incident
@acting
@common
def open_(*, title: str, about: str, severity: str, by: str, ledger: str, common: Common, **said: Any) -> int:
    """Open an incident called TITLE, in one line."""
    from trimtab.cli.incident_views import incident_view
    from trimtab.cli.output import emit
    from trimtab.flows.incident import open_incident

    row = open_incident(title, about=about, severity=severity, by=by, ledger=ledger, **said)
    emit(common, row, incident_view(row))
    return 0


@incident.command(short_help="What is new about an incident.")
@click.argument("name", metavar="INCIDENT")
@option("--state", type=click.Choice(["open", "contained"]), help="contained: it does no more harm.")
@option("--severity", type=SEVERITY, help="How bad it is by now.")
@option("--title", metavar="TEXT", help="What went wrong, in one line.")
@_about_incident
@acting
@common
def update(
    *, name: str, state: str | None, severity: str | None, title: str | None, by: str, ledger: str, common: Common, **said: Any
) -> int:
    """Add to INCIDENT. Groups and alarms are added to those there."""
    from trimtab.cli.incident_views import incident_view
    from trimtab.cli.output import emit
    from trimtab.flows.incident import update_incident

    row = update_incident(name, state=state, severity=severity, title=title, by=by, ledger=ledger, **said)
    emit(common, row, incident_view(row))
    return 0


@incident.command(short_help="End an incident, for good.")
@click.argument("name", metavar="INCIDENT")
@option("--note", required=True, metavar="TEXT", help="What it came from, and what was done about it.")
@option("--owner", metavar="NAME", help="Who answers for it, if nobody did yet.")
@acting
@common
def close(*, name: str, note: str, owner: str | None, by: str, ledger: str, common: Common) -> int:
    """Close INCIDENT. It stays in the ledger and cannot be opened again."""
    from trimtab.cli.incident_views import incident_view
    from trimtab.cli.output import emit
    from trimtab.flows.incident import close_incident

    row = close_incident(name, note=note, owner=owner, by=by, ledger=ledger)
    emit(common, row, incident_view(row))
    return 0


@incident.command("list", short_help="Incidents, open ones first.")
@option("--about", default="", metavar="RELEASE", help="Only those about this release, or all releases of a name.")
@option("--all", "show_all", is_flag=True, help="Closed ones too.")
@reading
@common
def list_(*, about: str, show_all: bool, ledger: str, common: Common) -> int:
    """List incidents: open ones first, the severest of them first."""
    from trimtab.cli.incident_views import incidents_view
    from trimtab.cli.output import emit
    from trimtab.flows.incident import list_incidents

    rows = list_incidents(about, show_all=show_all, ledger=ledger)
    emit(common, rows, incidents_view(rows, show_all))
    return 0


@incident.command(short_help="All of one incident.")
@click.argument("name", metavar="INCIDENT")
@reading
@common
def show(*, name: str, ledger: str, common: Common) -> int:
    """Show INCIDENT with its history, the effects that come from it, and by when a law may want it reported."""
    from trimtab.cli.incident_views import incident_view
    from trimtab.cli.output import emit
    from trimtab.flows.incident import show_incident

    row = show_incident(name, ledger=ledger)
    emit(common, row, incident_view(row))
    return 0


@incident.group(short_help="The register of effects on people, meant or not.")
def impact() -> None:
    """Effects on people, meant or not: who is affected, how badly, who answers for it, what is done about it."""


@impact.command("add", short_help="Note an effect on people.")
@click.argument("effect")
@option("--about", required=True, metavar="RELEASE", help="A release (support-chat@3, support-chat@production) or a model.")
@option("--severity", type=SEVERITY, required=True, help="How bad it is; of a good one, how large.")
@option("--intended", is_flag=True, help="It was meant.")
@_about_impact
@acting
@common
def add(*, effect: str, about: str, severity: str, intended: bool, by: str, ledger: str, common: Common, **said: Any) -> int:
    """Add EFFECT, in one line: what happens to whom."""
    from trimtab.cli.incident_views import impact_view
    from trimtab.cli.output import emit
    from trimtab.flows.incident import add_impact

    row = add_impact(effect, about=about, severity=severity, intended=intended, by=by, ledger=ledger, **said)
    emit(common, row, impact_view(row))
    return 0


@impact.command("update", short_help="What is new about an effect.")
@click.argument("name", metavar="IMPACT")
@option("--effect", metavar="TEXT", help="What happens to whom, in one line.")
@option("--severity", type=SEVERITY, help="How bad it is by now.")
@option("--intended/--not-intended", default=None, help="Whether it was meant.")
@_about_impact
@acting
@common
def update_impact(
    *,
    name: str,
    effect: str | None,
    severity: str | None,
    intended: bool | None,
    by: str,
    ledger: str,
    common: Common,
    **said: Any,
) -> int:
    """Add to IMPACT. Groups and sources are added to those there."""
    from trimtab.cli.incident_views import impact_view
    from trimtab.cli.output import emit
    from trimtab.flows.incident import update_impact as flow

    row = flow(name, effect=effect, severity=severity, intended=intended, by=by, ledger=ledger, **said)
    emit(common, row, impact_view(row))
    return 0


@impact.command("list", short_help="The register.")
@option("--about", default="", metavar="RELEASE", help="Only those about this release, or all releases of a name.")
@reading
@common
def list_impacts(*, about: str, ledger: str, common: Common) -> int:
    """List the effects: what still does harm first."""
    from trimtab.cli.incident_views import impacts_view
    from trimtab.cli.output import emit
    from trimtab.flows.incident import list_impacts as flow

    rows = flow(about, ledger=ledger)
    emit(common, rows, impacts_view(rows))
    return 0
