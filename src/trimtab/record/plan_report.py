"""The page of a plan: one self-contained file. It loads nothing, escapes every text, and runs one script, which moves sliders.

Without scripts (or where a policy forbids them) the same numbers stand there as tables.
"""

import base64
import hashlib
import json
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from trimtab.core import phrases
from trimtab.core.files import digest_of, write_atomic
from trimtab.record import plan_view, plan_what_if
from trimtab.record.disk import sentences
from trimtab.record.page import environment
from trimtab.record.plan_pipeline import MOST_BATCHES, MOST_STAGES, time_line

Plain = Mapping[str, Any]
BAR_COLOURS = ("accent", "good", "unsure", "control", "bad", "muted", "ink")


def write_plan_page(path: Path, document: Plain) -> None:
    """Write the page, whole or not at all. Raises InputError or MissingError."""
    text = render_plan(document)
    with sentences(path, "write"):
        write_atomic(path, text)


def render_plan(document: Plain) -> str:
    """The page of a document of schema trimtab.plan/1."""
    from trimtab.record.plan_figures import plan_plot

    script = (resources.files("trimtab.record") / "templates" / "plan.js").read_text(encoding="utf-8").strip()
    first = document["options"][0] if document["options"] else None
    stages = (first["time"] or {}).get("stages") if first else None
    values = {
        "page": document,
        "view": plan_view,
        "phrases": phrases,
        "columns": plan_view.columns(document),
        "plots": [(plot, plan_plot(plot, f"plot-{place}")) for place, plot in enumerate(document["plots"]) if len(plot["points"]) > 1],
        "colours": bar_colours(document),
        "stages": stages,
        "turns": time_line(stages["n"], stages["n_micro"], stages["forward_s"], stages["backward_s"]) if stages else (),
        "shown_stages": MOST_STAGES,
        "shown_batches": MOST_BATCHES,
        "what_if": plan_what_if.what_if_table(document["what_if"]) if document["what_if"] else None,
        "script": script,
        "script_hash": base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        "grid": embedded(document["what_if"]),
        "digest": digest_of(document),
    }
    return environment().get_template("plan.html.j2").render(values) + "\n"


def bar_colours(document: Plain) -> dict[str, dict[str, tuple[str, float]]]:
    """For bars of `memory` and of `time`: the page's colour of each part and its strength; after the last colour they come again, paler."""
    memory = [part.name for row in document["options"] if row["memory"] for part in plan_view.memory_bar(row)[0]]
    times = [part.name for row in document["options"] if row["time"] for part in plan_view.time_bar(row)]
    return {"memory": _colours(memory), "time": _colours(times)}


def _colours(names: list[str]) -> dict[str, tuple[str, float]]:
    kinds = len(BAR_COLOURS)
    return {name: (BAR_COLOURS[place % kinds], 0.5 ** (place // kinds)) for place, name in enumerate(dict.fromkeys(names))}


def embedded(value: Any) -> str:
    """JSON that may stand inside a script element: it cannot end it."""
    return json.dumps(value, ensure_ascii=True).replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
