"""A canary with 4-bit weights, caught from live traffic and taken back with no person; and one that is as good, left alone.

    python benchmarks/canary.py [--quick] [--stable RECIPE] [--canary RECIPE] [--control RECIPE] [--minutes N] [--runs STABLE CANARY]

Real processes: `trimtab serve --watch` with the demo model, clients that ask it things at temperature 1, and a ledger that knows the person
`watch`. The stable version is 8-bit. The first story's canary is 4-bit: how many requests and seconds until it has no traffic, and what the
ledger tells. The second one's is the stable deployment again: it must keep its traffic for as long as answers are judged. Nobody touches
anything in between. --quick: the first story alone.

--runs STABLE CANARY: folders of finished runs take the place of the first story's recipes; they become releases, the canary's (whose
run passed a policy of wider margins) on the alias `canary`, which must point at the stable one again in the end.
"""

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from parts.canary_story import Story, add_people, run_story, write_locks, write_releases

from trimtab.record.home import cache_dir

N_CONTROL = 400
TARGETS = {"caught": 1, "incident_in_ledger": 1, "control_kept": 1, "alias_moved_back": 1}


def told(story: Story, title: str) -> None:
    """The story, for a person."""
    print(f"\n{title}")
    print(f"  answered: {dict(story.answered)}, failed {story.failed}")
    for reason in story.trial.get("reasons", ()):
        print(f"  judged: {reason}")
    if story.caught_s is not None:
        print(f"  no traffic after {story.caught_after} requests, {story.caught_s:.0f} s, {story.trial.get('n')} answers scored")
    for action in story.actions:
        print(f"  action {action.get('kind')}: {action.get('result', action)}")
    for incident in story.incidents:
        print(f"  {incident['id']} ({incident['severity']}, {incident['state']}): {incident['title']}")
    for line in story.ledger:
        print(f"  ledger {line}")


def one_story(title: str, stable: str, canary: str, args: argparse.Namespace, n_scored: int | None, runs: Sequence[Path] = ()) -> Story:
    """In a home of its own; models that were built are used from where they are. runs: what is served, in place of the recipes"""
    caches = cache_dir()
    with tempfile.TemporaryDirectory(prefix="trimtab-canary-") as folder:
        root = Path(folder)
        os.environ["TRIMTAB_CACHE"], os.environ["TRIMTAB_HOME"] = str(caches), str(root / "home")
        add_people()
        if runs:
            write_releases(root, *runs)
        else:
            write_locks(root, stable, canary, threads=args.threads)
        story = run_story(
            root,
            canary_pct=args.percent,
            clients=args.clients,
            max_tokens=args.tokens,
            limit_s=60.0 * args.minutes,
            n_scored=n_scored,
        )
    told(story, title)
    return story


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--stable", default="llamacpp-q8_0")
    parser.add_argument("--canary", default="llamacpp-q4_0")
    parser.add_argument("--control", default="llamacpp-q8_0")
    parser.add_argument("--percent", type=float, default=20.0)
    parser.add_argument("--clients", type=int, default=2)
    parser.add_argument("--tokens", type=int, default=16)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--answers", type=int, default=N_CONTROL, help="judged in the control")
    parser.add_argument("--runs", nargs=2, type=Path, default=(), metavar=("STABLE", "CANARY"))
    args = parser.parse_args()
    names = [str(run) for run in args.runs] or [args.stable, args.canary]
    caught = one_story(f"{names[1]} beside {names[0]}", args.stable, args.canary, args, None, args.runs)
    figures: dict[str, float | None] = {
        "caught": float(caught.caught_s is not None),
        "requests_until_caught": caught.caught_after,
        "seconds_until_caught": None if caught.caught_s is None else round(caught.caught_s, 1),
        "answers_scored": caught.trial.get("n"),
        "change_nats_per_token": caught.trial.get("change"),
        "incident_in_ledger": float(bool(caught.incidents)),
    }
    if not args.quick:
        control = one_story(f"control: {args.control} beside {args.stable}", args.stable, args.control, args, args.answers)
        figures |= {
            "control_kept": float(control.caught_s is None and control.trial.get("n", 0) > 0),
            "control_requests": sum(control.answered.values()),
            "control_answers_scored": control.trial.get("n"),
            "control_change_nats_per_token": control.trial.get("change"),
        }
    if args.runs:
        figures["alias_moved_back"] = float(any(line.split()[1:4] == ["rollback", "by", "watch"] for line in caught.ledger))
    targets = {name: value for name, value in TARGETS.items() if name in figures}
    ok = all((figures[name] or 0) >= value for name, value in targets.items())
    print(json.dumps({"name": "canary", "figures": figures, "targets": targets, "ok": ok}))
    return 0 if ok else 1


if __name__ == "__main__":
    sys.exit(main())
