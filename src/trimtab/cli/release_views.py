"""Releases as a person reads them. Pure: dicts in, renderables out."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from trimtab.core.phrases import line

Plain = Mapping[str, Any]

STATE_STYLE = {"draft": "yellow", "candidate": "cyan", "approved": "blue", "live": "green", "retired": "dim", "revoked": "red"}
DOES = {
    "release": "proposed",
    "approval": "approved",
    "exception": "waived",
    "promotion": "promoted",
    "rollback": "rolled back to",
    "retirement": "retired",
    "revocation": "revoked",
    "incident": "noted an incident of",
    "evaluation": "evaluated",
    "impact": "noted an effect of",
    "action": "acted on",
}


def created_view(row: Plain) -> Iterator[RenderableType]:
    """What a new release is, and what it waits for."""
    yield _headline(row)
    yield from _missing(row)


def approved_view(row: Plain) -> Iterator[RenderableType]:
    """How far an approval has brought a release."""
    yield _headline(row)
    yield from _missing(row)
    if row["state"] == "approved":
        yield Text(f"`trimtab release promote {row['release']} --to production` makes it live.", style="dim")


def waived_view(row: Plain, gate: str) -> Iterator[RenderableType]:
    """What a waiver has brought."""
    last = [one for one in row["waivers"] if one["gate"] == gate][-1]
    yield Text(f"The gate {line(gate)} of {row['release']} is waived by {line(last['by'])} until {_minute(last['expires'])} UTC.")
    yield from created_view(row)


def promoted_view(row: Plain) -> Iterator[RenderableType]:
    """Promoted, or every reason why not."""
    if row["promoted"]:
        before = f", before {row['from']}" if row["from"] else ""
        yield Text.assemble(("✓ ", "green"), (f"{row['alias']} is {row['release']} now{before}.", "bold"))
        return
    yield Text.assemble(("✗ ", "red"), (f"{row['release']} is not promoted to {line(row['alias'])}:", "bold"))
    yield _listed(row["reasons"])


def rolled_back_view(row: Plain) -> Iterator[RenderableType]:
    """What an alias points at again."""
    before = f", before {row['from']}" if row["from"] else ""
    yield Text.assemble(("✓ ", "green"), (f"{row['alias']} is {row['release']} again{before}.", "bold"))


def ended_view(row: Plain) -> Iterator[RenderableType]:
    """What has ended, and which aliases point at nothing now."""
    yield _headline(row)
    name = row["release"].partition("@")[0]
    for alias in row["taken_from"]:
        yield Text(f"{name}@{alias} serves nothing now; promote another release, or roll back.", style="yellow")


def release_view(row: Plain) -> Iterator[RenderableType]:
    """All of one release."""
    yield _headline(row)
    yield from _missing(row)
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(overflow="fold")
    grid.add_row("proposed", f"{_minute(row['made'])} UTC by {line(row['proposed_by'])}")
    grid.add_row("rules", f"{line(row['rules'])}, {row['approvals_needed']} to approve")
    grid.add_row("decision", f"{row['verdict']} by policy {line(row['policy'])}, {row['decision_sha256'][:16]}")
    gates = ", ".join(f"{line(name)} {verdict}" for name, verdict in row["gates"].items() if verdict != "pass")
    grid.add_row("gates", gates or f"all {len(row['gates'])} that are required passed")
    grid.add_row("serves", f"{line(row['source'])}, deployment {row['deployment_sha256'][:16]}, weights {row['weights_sha256'][:16]}")
    size = sum(blob["size_bytes"] for blob in row["evidence"])
    grid.add_row("evidence", f"{len(row['evidence'])} files, {size / 1e6:.1f} MB")
    for title, said in (("approved", row["approvals"]), ("waived", row["waivers"])):
        for one in said:
            grid.add_row(title, _said(one))
    for one in row["licences"]:
        source = f" ({line(one['source'], 120)})" if one["source"] else ""
        grid.add_row("licence", f"{line(one['model'])}: {line(one['licence']) or 'unknown'}{source}")
    for title in ("owner", "intended", "prohibited", "affected"):
        value = row["use"][title]
        for text in [value] if isinstance(value, str) else value:
            if text:
                grid.add_row(title, line(text))
    for key, text in row["use"]["answers"].items():
        grid.add_row(line(key), line(text))
    for guard in row["guards"]:
        grid.add_row("guard", f"{line(guard['name'])}, {guard['side']}, {guard['on_hit']}")
    if row["ended"]:
        grid.add_row(row["state"], f"{_minute(row['ended']['at'])} UTC by {line(row['ended']['by'])}: {line(row['ended']['reason'])}")
    yield grid


def _said(one: Plain) -> Text:
    about = f"{line(one['gate'])}, until {_minute(one['expires'])} UTC: {line(one['reason'])}" if "gate" in one else line(one["note"])
    told = f"{_minute(one['at'])} UTC by {line(one['by'])}" + (f": {about}" if about else "")
    return Text(told) if one["counts"] else Text(f"{told} (does not count: {one['why_not']})", style="yellow")


def list_view(found: Plain) -> Iterator[RenderableType]:
    """A row a release."""
    if not found["releases"]:
        yield Text("Nothing was released yet; begin with `trimtab release create RUN --name NAME`.")
    else:
        table = _table("release", "state", "live on", "verdict", "approved", "proposed")
        for row in found["releases"]:
            counted = len({one["by"] for one in row["approvals"] if one["counts"]})
            table.add_row(
                row["release"],
                Text(row["state"], style=STATE_STYLE[row["state"]]),
                ", ".join(row["live_on"]) or "-",
                row["verdict"],
                f"{counted} of {row['approvals_needed']}",
                f"{_minute(row['made'])} by {line(row['proposed_by'])}",
            )
        yield table
    yield from irregular_view(found["irregular"])


def irregular_view(rows: Sequence[Plain]) -> Iterator[RenderableType]:
    """Entries that changed nothing because they should not be there."""
    for one in rows:
        reasons = line(" ".join(one["reasons"]), 300)
        yield Text(f"Entry {one['entry']} ({one['kind']} by {line(one['by'])}) is set aside: {reasons}", style="yellow")


def history_view(found: Plain) -> Iterator[RenderableType]:
    """What each alias pointed at and why, then the changes that led there."""
    yield Text(f"{line(found['name'])} at {_minute(found['at'])} UTC", style="bold")
    if not found["serving"]:
        yield Text("No alias pointed at anything yet.")
    for row in found["serving"]:
        yield from _serving(row)
    yield Text("\nAll changes up to then", style="bold")
    table = _table("entry", "time (UTC)", "who", "what", "")
    for one in found["changes"]:
        table.add_row(
            str(one["entry"]),
            _minute(one["at"]),
            line(one["by"]),
            f"{'completed' if one.get('completes') else DOES.get(one['kind'], one['kind'])} {one['release']}",
            _why(one),
        )
    yield table


def _serving(row: Plain) -> Iterator[RenderableType]:
    yield Text.assemble("\n", (f"{row['alias']}: ", "bold"), (row["release"] or "nothing", "green" if row["release"] else "red"))
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(overflow="fold")
    how = {"promotion": "promoted", "rollback": "rolled back", "revocation": f"{row.get('ended', '')} was revoked"}[row["how"]]
    note = f": {line(row['note'])}" if row["note"] else ""
    grid.add_row("since", f"{_minute(row['since'])} UTC, {how} by {line(row['by'])}{note}")
    if row["release"]:
        grid.add_row("evidence", f"decision {row['decision_sha256'][:16]}, {row['verdict']}; deployment {row['deployment_sha256'][:16]}")
        grid.add_row("proposed", f"{_minute(row['proposed'])} UTC by {line(row['proposed_by'])}, by the rules {line(row['rules'])}")
        for title, said in (("approved", row["approvals"]), ("waived", row["waivers"])):
            for one in said:
                grid.add_row(title, _said(one))
        if row["how"] != "promotion":
            grid.add_row("promoted", f"{_minute(row['promoted'])} UTC by {line(row['promoted_by'])}")
        grid.add_row("entries", ", ".join(map(str, row["entries"])))
    yield grid


def _why(one: Plain) -> str:
    where = one.get("alias") or (one.get("to") if one["kind"] == "promotion" else "")
    parts = [
        f"on {where}" if where else "",
        one.get("gate", ""),
        one.get("verdict", ""),
        one.get("title") or one.get("effect") or one.get("note") or one.get("reason") or one.get("result", ""),
    ]
    return line("; ".join(part for part in parts if part), 200)


def site_view(found: Plain) -> Iterator[RenderableType]:
    """What was written, and what no guard stands behind."""
    guards = ", ".join(guard["name"] for guard in found["guards"])
    yield Text(f"{found['site']}: {f'guards {guards}' if guards else 'no guards'}. `trimtab serve {found['site']}` serves it.")
    for use in found["unguarded"]:
        yield Text(f"No guard stands behind this prohibited use: {line(use, 200)}", style="yellow")


def added_view(row: Plain) -> Iterator[RenderableType]:
    """Who was added, and what the first one is told."""
    yield Text(f"{line(row['name'])} is {', '.join(row['roles'])}.")
    if row["is_first"]:
        yield Text("The first person of a ledger has all roles. Add others with `trimtab release people add NAME --roles approver`.")
    if row["key_file"]:
        yield Text(f"{row['key_file']} signs in that name; keep it where only {line(row['name'])} can read it.", style="dim")


def people_view(rows: Sequence[Plain]) -> Iterator[RenderableType]:
    """A row a person."""
    table = _table("name", "roles", "public key", "key is here")
    for row in rows:
        table.add_row(
            line(row["name"]), ", ".join(row["roles"]) or "-", row["public_key"][:16] or "none", "yes" if row["key_is_here"] else "no"
        )
    yield table


def _headline(row: Plain) -> Text:
    where = f" on {', '.join(row['live_on'])}" if row["live_on"] else ""
    return Text.assemble((f"{row['release']}: ", "bold"), (f"{row['state']}{where}", STATE_STYLE[row["state"]]))


def _missing(row: Plain) -> Iterator[RenderableType]:
    if row["missing"]:
        yield Text("It lacks:" if row["state"] != "live" else "It would lack, if it were promoted now:")
        yield _listed(row["missing"])


def _listed(sentences: Sequence[str]) -> Table:
    grid = Table.grid(padding=(0, 1))
    grid.add_column(width=1)
    grid.add_column()
    for sentence in sentences:
        grid.add_row("·", Text(line(sentence)))
    return grid


def _table(*titles: str) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for title in titles:
        table.add_column(title, overflow="fold")
    return table


def _minute(text: str) -> str:
    """`2026-11-01 12:00` of a time in the ledger's form."""
    return str(text)[:16].replace("T", " ")
