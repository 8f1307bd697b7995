"""Charts as files: a picture for a paper, and one HTML page that needs nothing but a browser."""

from __future__ import annotations

from typing import Any

import altair as alt
import vl_convert

from seigh.app.charts.base import AS_SVG

WIDTH = 640  # px, of a chart without a page to fill
SCALE = 3.0  # pixels of a PNG for one of the chart

# Dark on white, whatever the page looks like.
CONFIG: dict[str, Any] = {
    "background": "#ffffff",
    "font": "DejaVu Sans, Helvetica, Arial, sans-serif",  # the first has every symbol
    "view": {"stroke": None},
    "axis": {
        "labelFontSize": 12,
        "titleFontSize": 13,
        "titleFontWeight": "normal",
        "gridColor": "#e6e6e6",
        "domainColor": "#999999",
        "tickColor": "#999999",
    },
    "legend": {"labelFontSize": 12, "titleFontSize": 12, "titleFontWeight": "normal"},
    "title": {"fontSize": 14, "anchor": "start"},
}


def svg(chart: alt.TopLevelMixin) -> str:
    """The chart as an SVG document."""
    return vl_convert.vegalite_to_svg(specification(chart), config=CONFIG)


def png(chart: alt.TopLevelMixin) -> bytes:
    """The chart as a PNG of ``SCALE`` times its size."""
    return vl_convert.vegalite_to_png(specification(chart), config=CONFIG, scale=SCALE)


def pdf(chart: alt.TopLevelMixin) -> bytes:
    """The chart as a PDF of one page."""
    return vl_convert.vegalite_to_pdf(specification(chart), config=CONFIG)


def specification(chart: Any, width: int | str = WIDTH) -> dict[str, Any]:
    """The chart's Vega-Lite of a fixed width, or of its ``"container"``'s; facets keep their own."""
    sized = chart.properties(width=width) if isinstance(chart, alt.Chart | alt.LayerChart) else chart
    found: dict[str, Any] = sized.to_dict()
    return found | {"usermeta": AS_SVG}
