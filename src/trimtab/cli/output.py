"""Results on stdout: one JSON object, or what rich draws. A reader that stops early (`| head`) does not change the exit code."""

import json
import sys
from collections.abc import Iterable
from typing import Any

from rich.console import Console, RenderableType

from trimtab.cli.options import Common
from trimtab.cli.pipes import silence_stdout
from trimtab.core.errors import EXIT_FAILED, EXIT_INCONCLUSIVE, EXIT_PASSED
from trimtab.core.files import to_plain

EXIT_BY_VERDICT = {"pass": EXIT_PASSED, "fail": EXIT_FAILED, "inconclusive": EXIT_INCONCLUSIVE}


class Results(Console):
    """rich's own console ends the process with code 1, which means "the answer is no" here, when its reader is gone."""

    def on_broken_pipe(self) -> None:
        raise  # the BrokenPipeError that is being handled


def emit(common: Common, value: Any, drawn: Iterable[RenderableType]) -> None:
    """`value` as JSON with --json, else the renderables in order."""
    try:
        if common.as_json:
            print(json.dumps(to_plain(value), indent=2, ensure_ascii=False, allow_nan=False))
        else:
            console = Results(no_color=common.no_color or None, highlight=False, markup=False)
            for renderable in drawn:
                console.print(renderable)
        sys.stdout.flush()
    except BrokenPipeError:
        silence_stdout()
