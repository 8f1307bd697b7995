"""The pages, each declared once: its address, title and icon, and the way to it.

A page is the function ``page`` of a module of ``app/views``. Importing such a module runs nothing; it is
imported when its page is first opened, because some bring torch.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import streamlit as st
from streamlit.navigation.page import StreamlitPage

Visibility = Literal["visible", "hidden"]


@dataclass(frozen=True)
class Page:
    """One page.

    Attributes:
        name: Its module in ``app/views``, and its address.
        title: In the navigation.
        icon: A Material icon.
        section: Section of the navigation.
        default: Whether it is shown at the address of the dashboard itself.
    """

    name: str
    title: str
    icon: str
    section: str
    default: bool = False

    def run(self) -> None:
        """Show the page."""
        importlib.import_module(f"seigh.app.views.{self.name}").page()

    def registered(self, visibility: Visibility = "visible") -> StreamlitPage:
        """The page as Streamlit knows it."""
        return st.Page(
            self.run,
            title=self.title,
            icon=self.icon,
            url_path=self.name,
            default=self.default,
            visibility=visibility,
        )


PAGES: Mapping[str, Page] = {
    page.name: page
    for page in (
        Page("overview", "Overview", ":material/home:", "SEIGH Lab", default=True),
        Page("new_analysis", "New analysis", ":material/add_circle:", "SEIGH Lab"),
        Page("train", "Train", ":material/model_training:", "SEIGH Lab"),
        Page("runs", "Runs", ":material/list:", "SEIGH Lab"),
        Page("analyses", "Analyses", ":material/table:", "Results"),
        Page("model", "Model", ":material/deployed_code:", "Results"),
        Page("data", "Data", ":material/database:", "Results"),
        Page("result", "Result", ":material/insights:", "Results"),
        Page("compare", "Compare", ":material/stacked_line_chart:", "Results"),
        Page("stabilisation", "Stabilisation", ":material/grid_on:", "Results"),
        Page("metrics", "Metrics", ":material/square_foot:", "Results"),
        Page("accuracy", "Accuracy", ":material/target:", "Results"),
        Page("accounts", "Accounts", ":material/group:", "Lab"),
    )
}


def link(
    name: str, label: str, *, icon: str | None = None, query: Mapping[str, str | Sequence[str]] | None = None
) -> None:
    """A link to a page.

    Args:
        name: Name of the page, a key of ``PAGES``.
        label: What the link says.
        icon: A Material icon.
        query: The selection that the page is to show.
    """
    st.page_link(PAGES[name].registered(), label=label, icon=icon, query_params=dict(query or {}))
