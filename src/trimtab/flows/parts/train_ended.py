"""What is known of a training process that died: which of them, how, and its last words."""

import re
import signal
from dataclasses import dataclass
from pathlib import Path

MOST_WORDS = 300
NOISE = re.compile(r"^([EWI]\d{4} |\[[EWI]\d{4}|=+$|-+$|\*+$|\s*$|.*(FutureWarning|UserWarning|warnings\.warn))")


@dataclass(frozen=True)
class Death:
    """is_signal: the system or a person ended it, it is no bug."""

    sentence: str
    is_signal: bool


def why_it_died(logs: Path, code: int, processes: int, last_step: int) -> Death:
    """One sentence from torchrun's report of the first process that failed, or from the exit code of a single one."""
    rank, ended = 0, code
    text = _read(logs / "start.log")
    found = re.search(r"failed \(exitcode: (-?\d+)\) local_rank: (\d+)", text)
    if found and processes > 1:
        ended, rank = int(found[1]), int(found[2])
    which = f"Process {rank} of {processes}" if processes > 1 else "The training process"
    when = f"after step {last_step}" if last_step else "before its first step"
    others = "; the others were ended" if processes > 1 else ""
    words = last_words(logs, rank)
    said = f" Its last words: {words}" if words else ""
    if ended < 0:
        name = signal.Signals(-ended).name if -ended in set(signal.Signals) else f"signal {-ended}"
        hint = ", which is what the system does when memory runs out" if ended == -signal.SIGKILL else ""
        return Death(f"{which} was ended {when} by {name}{hint}{others}.{said}", True)
    return Death(f"{which} ended {when} with exit code {ended}{others}.{said} All that it said is in {logs}.", False)


def last_words(logs: Path, rank: int = 0) -> str:
    """The last line that a process said on stderr, without what libraries say of themselves; "" = nothing."""
    own = sorted(logs.glob(f"*/attempt_*/{rank}/stderr.log"), key=lambda path: path.stat().st_mtime)
    lines = _read(own[-1] if own else logs / "start.log").splitlines()
    said = [line.strip() for line in lines if not NOISE.match(line)]
    return said[-1][:MOST_WORDS] if said else ""


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
