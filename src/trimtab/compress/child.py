"""Builds one product in a process of its own: a crash of a converter is a reason, not the end of a run.

The child (`python -m trimtab.compress.child`) reads one JSON object from standard input and writes one to standard output.
"""

import asyncio
import json
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from trimtab.compress.base import is_as_shipped, known_product, make
from trimtab.core.deployment import Recipe
from trimtab.core.errors import InfeasibleError, InputError, MissingError, TrimtabError
from trimtab.core.files import to_plain
from trimtab.core.late import put_off
from trimtab.core.model import Snapshot

KINDS: dict[str, type[TrimtabError]] = {"input": InputError, "infeasible": InfeasibleError}


async def make_apart(recipe: Recipe, source: Snapshot, cache_dir: Path, *, calibration: Sequence[str] = ()) -> Snapshot:
    """`compress.base.make` in a child process. Raises what it raises, and InfeasibleError if the child dies."""
    if is_as_shipped(recipe):
        return source
    known = known_product(recipe, source, cache_dir, calibration=calibration)
    if known is not None:  # a process that only finds it takes half a second
        return known
    request = {"recipe": recipe, "source": source, "cache_dir": cache_dir, "calibration": list(calibration)}
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "trimtab.compress.child",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        start_new_session=True,
    )
    try:
        out, said = await process.communicate(json.dumps(to_plain(request)).encode())
    except asyncio.CancelledError:
        os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
        raise
    try:
        answer: dict[str, Any] = json.loads(out)
    except ValueError:
        lines = [line for line in said.decode(errors="replace").splitlines() if line.strip()]
        last = f" Its last words: {lines[-1][:300]}" if lines else ""
        raise InfeasibleError(f"Building recipe {recipe.name!r} ended with exit code {process.returncode}.{last}") from None
    if "snapshot" in answer:
        return Snapshot.parse(answer["snapshot"])
    if answer["kind"] == "missing":
        raise MissingError(answer["error"])
    raise KINDS.get(answer["kind"], TrimtabError)(answer["error"])


def main() -> None:
    outgoing = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what converters print must not mix with the answer
    put_off("llama_cpp")  # its classes are not used here
    request = json.load(sys.stdin)
    answer: dict[str, Any]
    try:
        snapshot = make(
            Recipe(**request["recipe"]), Snapshot.parse(request["source"]), Path(request["cache_dir"]), calibration=request["calibration"]
        )
        answer = {"snapshot": snapshot}
    except MissingError as error:
        answer = {"error": str(error), "kind": "missing"}
    except InputError as error:
        answer = {"error": str(error), "kind": "input"}
    except InfeasibleError as error:
        answer = {"error": str(error), "kind": "infeasible"}
    outgoing.write(json.dumps(to_plain(answer)))
    outgoing.close()
    os._exit(0)  # native threads of the converters may hang an ordinary interpreter shutdown


if __name__ == "__main__":
    main()
