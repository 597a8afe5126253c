"""What the pages of runs, live traffic and the audit log show: files as the gateway, the watch and the verbs leave them."""

import json
import shutil
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from trimtab.core.evidence import Item, Outcome
from trimtab.core.files import canonical_json, digest_of
from trimtab.evaluate.suites.registry import load_suite
from trimtab.flows import incident
from trimtab.record.chain import ChainLog
from trimtab.record.run import RunDir

LIVE = Path(__file__).parents[1] / "watch" / "data" / "live.json"
SCRIPT = "<script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">"
N_REQUESTS = 130
N_ITEMS = 120


def seed(home: Path, runs: Path) -> None:
    """A site that is watched, an audit log, and an answer that was looked at closely."""
    watched = home / "watch" / "0a1b2c3d4e5f6071"
    watched.mkdir(parents=True)
    shutil.copy(LIVE, watched / "live.json")
    _write_log(home)
    runs.mkdir(exist_ok=True)
    (runs / "why.json").write_text(json.dumps(WHY))
    judged_run(runs / "judged")


def judged_run(path: Path) -> None:
    """A comparison on 120 items of somebody's own, whose texts would run as scripts if they were markup; every twentieth answer is lost."""
    suite_file = path.with_name("mine.jsonl")
    rows = [
        {
            "id": f"mine-{number:03d}",
            "prompt": f"{number}? {SCRIPT}",
            "options": [" yes", f" no {SCRIPT}"],
            "answer": 0,
            "cluster": f"c{number % 30}",
        }
        for number in range(N_ITEMS)
    ]
    suite_file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    suite = load_suite(str(suite_file))
    sides = {"a": ("ad" * 32, 0.0), "b": ("be" * 32, -0.01)}
    with RunDir.open(
        path, digests={"suite": suite.digest}, seed=0, inputs={"a": "a.gguf", "b": "b.gguf", "suites": [str(suite_file)]}
    ) as run:
        for digest, shift in sides.values():
            run.put_outcomes(digest, suite.items[0].suite, [_outcome(item, number, shift) for number, item in enumerate(suite.items)])
        gate = {
            "name": "mine",
            "kind": "non_inferiority",
            "suite": suite.items[0].suite,
            "unit": "nats/token",
            "margin": 0.1,
            "required": True,
        }
        run.write_decision(
            {
                "schema": "trimtab.decision/1",
                "kind": "compare",
                "verdict": "inconclusive",
                "reasons": ["Too few clusters."],
                "seed": 0,
                "reference": {"id": "reference: a", "deployment_sha256": sides["a"][0]},
                "baseline": {"id": "a"},
                "gates": [
                    {**gate, "verdict": "inconclusive", "informative": True, "delta": -0.01, "low": -0.12, "high": 0.1, "n": N_ITEMS}
                ],
                "candidates": [
                    {"id": "b", "status": "certified", "verdict": "inconclusive", "details": {"deployment_sha256": sides["b"][0]}}
                ],
                "suite": {"name": suite.name, "version": suite.version, "digest": digest_of([suite.digest])},
            }
        )
        run.finish()


def _outcome(item: Item, number: int, shift: float) -> Outcome:
    is_lost = bool(shift) and number % 20 == 7
    value = 1.0 + number / 100 + (shift - 2.0 if is_lost else shift * number)
    group = "sex:woman" if number % 2 else "sex:man"
    common = {"item_id": item.id, "suite": item.suite, "cluster": item.cluster, "n_tokens": 2, "group": group}
    return Outcome(**common, value=value, picked=int(is_lost), correct=not is_lost)


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


def _write_log(home: Path) -> None:
    at = datetime.now(UTC).isoformat(timespec="milliseconds")
    bodies = [canonical_json({"at": at, **record}).encode() for number in range(N_REQUESTS) for record in records(number)]
    log = ChainLog.open(home / "audit", home=home)
    log.commit(bodies)
    log.close()


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
