"""Settings of Sphinx, which builds these pages: `make docs`."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

from sphinx.application import Sphinx

_PROJECT = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8"))[
    "project"
]

project = "SEIGH Lab"
copyright = "the authors of SEIGH Lab"
release = _PROJECT["version"]

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = f"{project} {release}"
html_show_sphinx = False

# Headings can be linked to as on GitHub: page.md#heading.
myst_heading_anchors = 3

# The tutorial is kept without outputs and runs whenever the pages are built: they show what this version
# computes.
nb_execution_mode = "force"
nb_execution_in_temp = True
nb_execution_raise_on_error = True
nb_execution_timeout = 240  # seconds for one cell
nb_merge_streams = True

autoclass_content = "both"
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
python_maximum_signature_line_length = 88
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_use_rtype = False

# Every reference has to lead somewhere. Those to other projects cannot be followed without a network.
nitpicky = True
nitpick_ignore_regex = [
    (r"py:.*", r"(collections|numpy|os|pathlib|pydantic_settings|torch)\..*|Tensor"),
]


def _escape_bars(app: object, what: str, name: str, obj: object, options: object, lines: list[str]) -> None:
    """Keep |λ| in docstrings as it is: reStructuredText reads a word between bars as a substitution."""
    lines[:] = [
        re.sub(r"``.+?``|\|", lambda found: "\\|" if found[0] == "|" else found[0], line) for line in lines
    ]


def setup(app: Sphinx) -> None:
    """Called by Sphinx."""
    app.connect("autodoc-process-docstring", _escape_bars)
