"""A figure of the page, in Plotly's JSON. report.js draws it when it comes into view, in the colours of the page."""

import html
from dataclasses import dataclass
from typing import Any, Literal

from matl_scale.report.page.table import shorten


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One figure.

    Attributes:
        title: Above it.
        data: Plotly's traces; none of those that need WebGL (scattergl), which want `eval`, and the page forbids it.
        layout: Plotly's layout.
        height: In pixels.
        span: Twelfths of the page's width that it takes on a large screen.
    """

    title: str
    data: list[dict[str, Any]]
    layout: dict[str, Any]
    height: int = 260
    span: Literal[3, 4, 6, 12] = 4

    def for_script(self) -> dict[str, Any]:
        """Returns what report.js reads."""
        return {"data": self.data, "layout": self.layout}


def plain(name: object) -> str:
    """Makes a name safe for Plotly, which reads a little HTML in its texts, links too."""
    return html.escape(str(name), quote=False)


def tick_name(name: str) -> str:
    """Shortens a name so that it fits beside an axis, and makes it plain."""
    return plain(shorten(name))


def axis(title: str, **more: Any) -> dict[str, Any]:
    """Returns an axis with a title, which has to be plain."""
    return {"title": {"text": title}, **more}
