"""Sign-in in a real Chromium, and the names that people give as they stand on the pages."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from seigh.app.cli import launch
from seigh.core.access import OPERATOR, Role
from seigh.core.lab import accounts, queries
from seigh.core.lab.session import migrate, sessions
from seigh.core.problems import training
from seigh.core.settings import Settings
from tests.browser import keyboard
from tests.browser.conftest import look_at, settled, violations
from tests.browser.test_dashboard import CHECKPOINTS, fill, upload
from tests.serving import dashboard

pytestmark = [pytest.mark.browser, pytest.mark.stack]

PASSWORD = "a long password"
NAME = "https://evil.example www.evil.example a@evil.example **bold** [x](y) :red[z]"


@pytest.fixture(scope="module")
def address(lab: Settings) -> Iterator[str]:
    """Of a dashboard in which people sign in; there is no worker."""
    migrate(lab.database)
    with sessions(lab.database).begin() as s:
        accounts.add(s, OPERATOR, "ada", Role.member, PASSWORD)
        accounts.add(s, OPERATOR, "lovelace", Role.admin, PASSWORD)
    port = launch.free_port(20_000 + os.getpid() % 20_000)
    with dashboard(lab, "0.0.0.0", port):
        yield f"http://127.0.0.1:{port}"


def test_sign_in_upload_analyse_sign_out_and_back_shows_nothing(
    page: Page, address: str, lab: Settings, tmp_path: Path
) -> None:
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.goto(f"{address}/new_analysis?from=a-link")
    expect(page.get_by_role("heading", name="Sign in")).to_be_visible()
    assert violations(page) == []
    sign_in(page, "wrong password")
    expect(page.get_by_role("alert")).to_have_text("The name or the password is wrong.")
    sign_in(page, PASSWORD)

    expect(page.get_by_role("heading", name="New analysis")).to_be_visible(timeout=90_000)
    upload(page, CHECKPOINTS, *training.train("digits-mlp", 0, [0], tmp_path))
    expect(page.get_by_test_id("stDataFrame")).to_be_visible()
    fill(page, "Model name", NAME)
    fill(page, "N, samples", "50")
    fill(page, "k, eigenpairs", "5")
    page.get_by_role("button", name="Start 1 analysis").click()
    expect(page.get_by_text("1 analysis is queued.")).to_be_visible()
    with sessions(lab.database)() as s:
        runs = queries.runs(s)
    assert set(runs["submitted_by"]) == {"ada"}
    assert set(runs["model"]) == {NAME}

    page.get_by_role("link", name="Watch them in Runs").click()
    expect(page.get_by_text("by ada").first).to_be_visible()
    settled(page)
    main = page.get_by_test_id("stMain")
    expect(main.locator("a[href*='evil']")).to_have_count(0)  # text is text
    expect(main.get_by_text("**bold** [x](y) :red[z]").first).to_be_visible()
    page.get_by_role("button", name="History").first.click()
    expect(page.get_by_text("submitted by ada from 127.0.0.1").first).to_be_visible()
    page.keyboard.press("Escape")
    refusals = [text for text in said if "Content Security Policy" in text or "Refused to" in text]
    assert refusals == []

    page.get_by_role("button", name="Sign out").click()
    expect(page.get_by_role("heading", name="Sign in")).to_be_visible()
    page.go_back()
    page.wait_for_timeout(1000)
    expect(page.get_by_text("by ada")).to_have_count(0)
    expect(page.get_by_role("heading", name="Runs")).to_have_count(0)
    page.goto(f"{address}/runs")
    expect(page.get_by_role("heading", name="Sign in")).to_be_visible()


def test_accounts_are_managed_by_the_keyboard_alone_in_both_themes(
    page: Page, address: str, lab: Settings, screenshots: Path
) -> None:
    page.goto(f"{address}/accounts")
    page.keyboard.type("lovelace")  # the field of the name has the focus
    keyboard.tab_to(page, "^Password")
    page.keyboard.type(PASSWORD)
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Accounts")).to_be_visible(timeout=90_000)
    settled(page)
    assert violations(page) == []
    page.emulate_media(color_scheme="dark")
    settled(page)
    assert violations(page) == []
    keyboard.tab_to(page, r"^\S*\s*Add an account$")
    page.keyboard.press("Enter")
    for field, text in (("^Name", "grace"), ("^Password", PASSWORD)):
        keyboard.tab_to(page, field)
        page.keyboard.type(text)
    keyboard.tab_to(page, "^Add$")
    page.keyboard.press("Enter")
    expect(page.get_by_text("grace").first).to_be_visible()
    with sessions(lab.database)() as s:
        assert accounts.find(s, "grace").role is Role.member
    settled(page)
    for field in ("Name", "Password"):  # the form is ready for the next one
        expect(page.get_by_label(field, exact=True)).to_have_value("")
    expect(page.get_by_label("Role of grace")).to_be_visible()  # one of several fields, told apart by ear
    page.set_viewport_size({"width": 390, "height": 900})
    look_at(page, screenshots / "accounts-dark-390.png")
    page.set_viewport_size({"width": 1280, "height": 900})
    settled(page)

    keyboard.tab_to(page, "^Your account$")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Your account")).to_be_visible()
    assert violations(page) == []
    page.emulate_media(color_scheme="light")
    assert violations(page) == []
    for field, text in (("^Present password", PASSWORD), ("^New password", PASSWORD[::-1])):
        keyboard.tab_to(page, field)
        page.keyboard.type(text)
    keyboard.tab_to(page, "^Change the password$")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Sign in")).to_be_visible()  # the new one is asked for
    page.keyboard.type("lovelace")
    keyboard.tab_to(page, "^Password")
    page.keyboard.type(PASSWORD[::-1])
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Overview")).to_be_visible()
    settled(page)
    keyboard.tab_to(page, "^Sign out$")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Sign in")).to_be_visible()


def sign_in(page: Page, password: str) -> None:
    page.get_by_label("Name").fill("ada")
    page.get_by_label("Password").fill(password)
    page.get_by_role("button", name="Sign in").click()
