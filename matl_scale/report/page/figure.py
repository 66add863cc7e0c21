"""A figure of the page, in Plotly's JSON. report.js draws it when it comes into view, in the colours of the page."""

import html
from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One figure."""

    title: str  # the text above it
    # Plotly's traces; none of those that need WebGL (scattergl): they use `eval`, which the page forbids
    data: list[dict[str, Any]]
    layout: dict[str, Any]  # Plotly's
    height: int = 260  # in pixels
    span: Literal[3, 4, 6, 12] = 4  # its width on a large screen, in twelfths of the page

    def for_script(self) -> dict[str, Any]:
        """Returns what report.js reads."""
        return {"data": self.data, "layout": self.layout}


def escape_markup(name: object) -> str:
    """Escapes a name for Plotly, which reads some HTML in its texts, links included."""
    return html.escape(str(name), quote=False)


def axis(title: str, **more: Any) -> dict[str, Any]:
    """Returns an axis with a title, which has to be escaped."""
    return {"title": {"text": title}, **more}


def scatter(x: list[Any], y: list[Any], **more: Any) -> dict[str, Any]:
    """Returns a trace of points."""
    return {"type": "scatter", "mode": "markers", "x": x, "y": y, **more}
