"""What the pages of runs, live traffic and the audit log show: files as the gateway, the watch and the verbs leave them."""

import asyncio
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trimtab.flows import incident
from trimtab.record.audit import AuditLog

LIVE = Path(__file__).parents[1] / "watch" / "data" / "live.json"
SCRIPT = "<script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">"
N_REQUESTS = 130


def seed(home: Path, runs: Path) -> None:
    """A site that is watched, an audit log, and an answer that was looked at closely."""
    watched = home / "watch" / "0a1b2c3d4e5f6071"
    watched.mkdir(parents=True)
    shutil.copy(LIVE, watched / "live.json")
    asyncio.run(_write_log(home))
    (runs / "why.json").write_text(json.dumps(WHY))


def note_incidents(by: str) -> None:
    """One incident that is contained, with an effect on people, and one that is closed; in the ledger of TRIMTAB_HOME."""
    said = {"about": "support-chat@2", "affected": ["women who write in"], "alarms": ["9f3c5a1e0b7d2c48"], "owner": "opal"}
    first = incident.open_incident("Refuses women more often", severity="high", serious="rights", note=SCRIPT, by=by, **said)
    incident.update_incident(first["id"], state="contained", note="rolled back", by=by)
    source = {"about": "support-chat@2", "sources": [first["id"]], "groups": ["women who write in"]}
    incident.add_impact(f"Answers come a day later {SCRIPT}", severity="moderate", owner="opal", by=by, **source)
    incident.add_impact("Answers come sooner", about="support-chat@2", severity="low", intended=True, state="confirmed", by=by)
    other = incident.open_incident("Slow on Mondays", about="chat", severity="low", owner="opal", by=by)
    incident.close_incident(other["id"], note="a backup ran; moved to the night", by=by)


async def _write_log(home: Path) -> None:
    async with AuditLog.open(home / "audit", home=home) as log:
        for number in range(N_REQUESTS):
            began, ended = records(number)
            await asyncio.gather(log.append(began), log.append(ended))


def records(number: int) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """Every tenth request is refused by a guard, every fortieth has a text in its model's name that would run as a script."""
    is_blocked = number % 10 == 9
    finding = {"rule": "injection.override", "start": 0, "end": 9, "score": 1.0}
    verdicts = [{"guard": "injection", "side": "in", "action": "block", "findings": [finding], "error": ""}] if is_blocked else []
    common = {
        "request": f"req_{number:04d}",
        "key": "key_desk" if number % 2 else "key_shop",
        "model": SCRIPT if number % 40 == 39 else "chat",
        "version": "chat@stable" if number % 3 else "chat@next",
        "verdicts": verdicts,
    }
    began = {"event": "began", **common, "path": "/v1/chat/completions", "input_digest": f"{number:064x}"}
    ended = {
        "event": "ended",
        **common,
        "status": 403 if is_blocked else 200,
        "error": "blocked" if is_blocked else "",
        "prompt_tokens": 20 + number,
        "completion_tokens": 0 if is_blocked else 40,
        "first_token_ms": None if is_blocked else 180.5,
        "total_ms": 12.5 if is_blocked else 950.25,
    }
    return began, ended


WHY = {
    "schema": "trimtab.why/1",
    "model": "llamacpp:m.gguf",
    "was_given": False,
    "prompt": "The shop opens at nine. It is closed on Sunday. When does it open?",
    "answer": " At nine.",
    "logprob_nats": -2.1,
    "n_tokens": 3,
    "spans": [
        {"start": 0, "end": 24, "text": "The shop opens at nine. ", "influence_nats": 6.2},
        {"start": 24, "end": 48, "text": "It is closed on Sunday. ", "influence_nats": -0.4},
        {"start": 48, "end": 66, "text": f"When does it open? {SCRIPT}", "influence_nats": 1.3},
    ],
}
