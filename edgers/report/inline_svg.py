"""A panel as SVG inside an HTML page: no identifier twice, and colours that are the page's."""

from __future__ import annotations

import io
import re

from edgers.report.colours import AMBER, BLUE, GREEN, GREY, RED
from edgers.report.panels.panel import Panel

_VARIABLES = {GREEN: "green", AMBER: "amber", GREY: "grey", BLUE: "blue", RED: "red"}  # lighter on dark paper
_INK = "#010203"  # drawn with nothing else, so that it can be told from the colours of data
_SIZE = (6.4, 4.0)


def inline_svg(panel: Panel) -> str:
    """Draw a panel. Text stays text, so that it can be read aloud, searched and copied."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context(
        {
            "svg.fonttype": "none",
            "svg.hashsalt": panel.key,  # the same benchmark gives the same bytes
            "text.color": _INK,
            "axes.labelcolor": _INK,
            "axes.edgecolor": _INK,
            "xtick.color": _INK,
            "ytick.color": _INK,
        }
    ):
        figure = Figure(figsize=_SIZE, layout="constrained")
        figure.patch.set_alpha(0)
        axes = figure.subplots()
        axes.patch.set_alpha(0)
        panel.draw(axes)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg")
    return _embedded(buffer.getvalue(), panel)


def _embedded(document: str, panel: Panel) -> str:
    """Without what is only for a file of its own: prologue, metadata, namespaces."""
    svg = document[document.index("<svg") :].strip()
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    opening, body = svg.split(">", 1)
    view = re.search(r'viewBox="[0-9. ]+"', opening)
    body = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{panel.key}-", body).replace("xlink:href", "href")
    body = body.replace(_INK, "currentColor")
    for colour, variable in _VARIABLES.items():
        body = body.replace(colour, f"var(--{variable})")
    body = re.sub(r"font: ([0-9.]+px) [^;\"]*", r"font-size: \1", body)  # the page's font
    body = re.sub(r"font-family: [^;\"]*;? ?", "", body)
    title = f"{panel.key}-title"
    name = panel.title.replace("&", "&amp;").replace("<", "&lt;")
    return (
        f'<svg {view.group() if view else ""} role="img" aria-labelledby="{title}"><title id="{title}">{name}'
        f"</title>{body}"
    )
