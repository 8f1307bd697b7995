"""Ways through the pages by the keyboard alone."""

from __future__ import annotations

import re
from pathlib import Path

from playwright.sync_api import Page
from playwright.sync_api import TimeoutError as PlaywrightTimeout

# What has the focus: its name, and whether there is a ring around it or around the words that belong to it. A
# table is a canvas, which draws the ring of its cells itself; these are elements in it.
_FOCUS = """() => {
    const focused = document.activeElement;
    const near = focused.closest('label') ?? focused;
    const ring = [focused, near].some(each => {
        const style = getComputedStyle(each);
        const box = each.getBoundingClientRect();
        const wide = style.outlineStyle === 'solid' && parseFloat(style.outlineWidth) >= 2;
        return wide && box.width * box.height > 50;
    });
    const words = focused.getAttribute('aria-label') ?? near.innerText ?? '';
    return {name: words.trim().slice(0, 200), ring, tag: (focused.closest('canvas') ?? focused).tagName};
}"""


def tab_to(page: Page, name: str, *, most: int = 120) -> None:
    """Press Tab until something whose name matches has the focus; all that is passed has a ring of focus."""
    passed = []
    for _ in range(most):
        page.keyboard.press("Tab")
        found = page.evaluate(_FOCUS)
        if found["tag"] not in ("BODY", "CANVAS", "IFRAME"):
            assert found["ring"], f"no ring around {found}"
        if re.search(name, found["name"]):
            return
        passed.append(found["name"])
    raise AssertionError(f"{name} is not among {passed}")


def fill(page: Page, name: str, text: str) -> None:
    """Go to a field and replace what stands in it."""
    tab_to(page, name)
    page.keyboard.press("Control+a")
    page.keyboard.type(text)
    page.keyboard.press("Enter")


def choose(page: Page, name: str, file: Path) -> None:
    """Go to the button of an upload, press it, and choose a file."""
    for attempt in range(3):
        tab_to(page, name)
        try:
            with page.expect_file_chooser(timeout=10_000) as chooser:
                page.keyboard.press("Enter")
        except PlaywrightTimeout:  # the page was drawn anew in between, and the focus had gone
            if attempt == 2:
                raise
        else:
            chooser.value.set_files(file)
            return


def tab_to_table(page: Page, *, most: int = 120) -> None:
    """Press Tab until a table has the focus."""
    for _ in range(most):
        page.keyboard.press("Tab")
        if page.evaluate(_FOCUS)["tag"] == "CANVAS":
            return
    raise AssertionError("no table takes the focus")
