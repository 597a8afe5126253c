"""The card as one self-contained page: no scripts, no requests, readable on a phone, in the dark and with a keyboard."""

import html
import io
import re
from collections.abc import Sequence

from trimtab.core.model import ModelCard, ModelHeader
from trimtab.describe.card import CardRow, LayerRow, card_rows, layer_rows
from trimtab.describe.template import TemplateReport
from trimtab.describe.tensors import PARTS

_STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --soft: #59636e; --line: #d1d9e0; --back: #ffffff; --tint: #f3f5f7; --link: #0550ae;
  --embedding: #4477aa; --attention: #ee6677; --mlp: #228833; --experts: #ccbb44; --norm: #66ccee; --output: #aa3377; --other: #8a8a8a; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6edf3; --soft: #9da7b1; --line: #3d444d; --back: #0d1117; --tint: #161b22;
  --link: #79b8ff;
  --embedding: #77aadd; --attention: #ff8899; --mlp: #55bb66; --experts: #ddcc66; --norm: #99ddff; --output: #cc77aa; --other: #aaaaaa; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1rem; max-width: 60rem; background: var(--back); color: var(--ink); font: 1rem/1.5 system-ui, sans-serif;
  overflow-wrap: anywhere; }
h1 { font-size: 1.5rem; line-height: 1.25; } h2 { font-size: 1.15rem; margin-top: 2rem; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: left; vertical-align: top; padding: .35rem .6rem; border-bottom: 1px solid var(--line); }
td.number, th.number { text-align: right; white-space: nowrap; }
.note { color: var(--soft); font-size: .9rem; }
.scroll { overflow-x: auto; } .scroll table { min-width: 36rem; overflow-wrap: normal; }
figure { margin: 0; } svg { width: 100%; height: auto; color: var(--ink); }
pre { background: var(--tint); padding: .75rem; overflow-x: auto; white-space: pre-wrap; border: 1px solid var(--line); }
summary { cursor: pointer; padding: .25rem 0; } a { color: var(--link); }
:focus-visible { outline: 3px solid var(--link); outline-offset: 2px; }
.skip { position: absolute; left: -99rem; } .skip:focus { position: static; }
@media (max-width: 36rem) { .facts th, .facts td { display: block; border: 0; padding: .1rem 0; } .facts tr { display: block;
  padding: .4rem 0; border-bottom: 1px solid var(--line); } }
""".strip()


def _escaped(text: str) -> str:
    """Text for HTML; control characters, which no name or template needs on a page, become visible."""
    return html.escape(re.sub(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", "\ufffd", text))


def _facts(rows: Sequence[CardRow]) -> str:
    lines = [
        f'<tr><th scope="row">{_escaped(row.label)}</th><td>{_escaped(row.value)}'
        + (f'<br><span class="note">{_escaped(row.note)}</span>' if row.note else "")
        + "</td></tr>"
        for row in rows
    ]
    return f'<table class="facts"><caption class="note">What the header tells</caption>{"".join(lines)}</table>'


def _layers(rows: Sequence[LayerRow]) -> str:
    heads = '<tr><th scope="col">Where</th><th scope="col">Kind</th><th scope="col" class="number">Parameters, each</th>'
    heads += '<th scope="col" class="number">Bytes, each</th><th scope="col">Stored as</th></tr>'
    lines = [
        f'<tr><th scope="row">{_escaped(row.name)}</th><td>{_escaped(row.kind)}</td><td class="number">{row.n_params:,}</td>'
        f'<td class="number">{row.size_bytes:,}</td><td>{_escaped(row.types)}</td></tr>'
        for row in rows
    ]
    table = f"<table><thead>{heads}</thead><tbody>{''.join(lines)}</tbody></table>"
    return f'<div class="scroll" role="region" aria-label="Layers" tabindex="0">{table}</div>'


def _plot(rows: Sequence[LayerRow]) -> str:
    """Parameters of each row of the uncollapsed layer table by part, as inline SVG. Colours are CSS variables of the page."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    shown = rows[:400]
    # Colours that no part of the drawing shares stand for the page's variables, so that the plot follows dark mode.
    stand_in = {part: f"#fe{number:02x}fe" for number, part in enumerate(PARTS, start=16)}
    ink = "#fe01fe"
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "trimtab", "font.size": 9, "text.color": ink, "axes.labelcolor": ink}):
        figure = Figure(figsize=(8, 3.2), layout="constrained")
        axes = figure.add_subplot()
        figure.patch.set_alpha(0)
        axes.patch.set_alpha(0)
        first = -1 if shown[0].name == "embedding" else 0  # so that layer N stands at N
        places = range(first, first + len(shown))
        bottom = [0.0] * len(shown)
        for part in PARTS:
            heights = [row.n_params_by_part.get(part, 0) / 1e6 for row in shown]
            if any(heights):
                axes.bar(places, heights, 0.9, bottom=bottom, color=stand_in[part], label=part)
                bottom = [low + height for low, height in zip(bottom, heights, strict=True)]
        axes.set_xlabel("layer (left of 0: embedding; right of the last: outside the layers)")
        axes.set_ylabel("parameters (millions)")
        axes.tick_params(colors=ink)
        axes.spines[["top", "right"]].set_visible(False)
        axes.spines[["left", "bottom"]].set_color(ink)
        axes.legend(frameon=False, ncols=4, loc="upper center", bbox_to_anchor=(0.5, 1.2))
        target = io.StringIO()
        figure.savefig(target, format="svg", metadata={"Date": None, "Creator": None}, transparent=True)
    svg = target.getvalue()
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    for part, colour in stand_in.items():
        svg = svg.replace(colour, f"var(--{part})")
    svg = svg.replace(ink, "currentColor")
    return svg.replace("<svg ", '<svg role="img" aria-label="Parameters of each layer by part; the table below has the numbers" ', 1)


def _template(report: TemplateReport) -> str:
    parts = [f"<p>sha256 <code>{report.sha256 or 'none'}</code></p>"]
    if report.content_branches:
        lines = "".join(f"<li><code>{_escaped(line)}</code></li>" for line in report.content_branches)
        parts.append(f"<p>It branches on what messages say:</p><ul>{lines}</ul>")
    elif report.sha256:
        parts.append("<p>No branch on what messages say was found.</p>")
    for item in report.renderings:
        body = f"<p>Not rendered: {_escaped(item.error)}</p>" if item.error else f'<pre tabindex="0">{_escaped(item.text)}</pre>'
        parts.append(f"<details><summary>{_escaped(item.conversation)}{' (not rendered)' if item.error else ''}</summary>{body}</details>")
    return "".join(parts)


def card_page(card: ModelCard, header: ModelHeader, template: TemplateReport | None = None) -> str:
    """A whole HTML page: the card, one plot, the layer table and, if given, what the chat template does."""
    rows = layer_rows(header, collapse=False)
    title = _escaped(f"{card.name}: model card")
    body = [
        '<a class="skip" href="#layers">Skip to the layers</a>',
        f"<main><h1>{_escaped(card.name)}</h1>",
        _facts(card_rows(card)),
        "<h2>Parameters by layer</h2>",
        f"<figure>{_plot(rows)}</figure>" if rows else "<p>No tensors.</p>",
        '<h2 id="layers">Layers</h2>',
        _layers(layer_rows(header)),
    ]
    if template is not None:
        body += ["<h2>Chat template</h2>", _template(template)]
    body.append("</main>")
    head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1"><title>{title}</title>'
    return f'<!doctype html>\n<html lang="en"><head>{head}<style>{_STYLE}</style></head>\n<body>{"".join(body)}</body></html>\n'
