"""Sign-in with a real OpenID Connect provider."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit, urlunsplit

import httpx2
import pytest

from seigh.app.cli import launch
from seigh.core.access import OPERATOR, Role
from seigh.core.lab import accounts
from seigh.core.lab.session import sessions
from seigh.core.settings import Settings
from tests.conftest import ROOT, wait_until
from tests.gate.conftest import Server, serving
from tests.gate.provider import CLIENT, PASSWORD, SECRET, USER

pytestmark = pytest.mark.stack


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of the provider."""
    return tmp_path_factory.mktemp("provider")


@pytest.fixture(scope="module")
def server(home_of_module: Settings, folder: Path) -> Iterator[Server]:
    """A dashboard whose people are those of the provider."""
    issuer = launch.free_port(40_000 + os.getpid() % 20_000)
    variables = {
        "SEIGH_OIDC_ISSUER": f"http://127.0.0.1:{issuer}/o",
        "SEIGH_OIDC_CLIENT_ID": CLIENT,
        "SEIGH_OIDC_CLIENT_SECRET": SECRET,
        "SEIGH_NEW_ROLE": "member",
    }
    with serving(home_of_module, "0.0.0.0", **variables) as running:
        back = f"{running.origin}/sign-in/oidc/callback"
        command = [sys.executable, "-m", "tests.gate.provider", str(issuer), str(folder), back]
        provider = subprocess.Popen(command, cwd=ROOT)
        try:
            wait_until(lambda: answers(variables["SEIGH_OIDC_ISSUER"]), 60, "the provider answers")
            yield running
        finally:
            provider.kill()
            provider.wait()


def answers(issuer: str) -> bool:
    try:
        return httpx2.get(f"{issuer}/.well-known/openid-configuration").status_code == 200
    except httpx2.HTTPError:
        return False


@pytest.fixture
def browser() -> Iterator[httpx2.Client]:
    with httpx2.Client(timeout=30) as client:
        yield client


def way_out(browser: httpx2.Client, server: Server, wanted: str = "/runs") -> str:
    """Where the dashboard sends somebody who wants to sign in."""
    answer = browser.get(f"{server.origin}/sign-in/oidc", params={"next": wanted})
    assert answer.status_code == 302, answer.text
    return answer.headers["location"]


def way_back(browser: httpx2.Client, there: str) -> str:
    """Where the provider sends them when they have signed in there."""
    answer = browser.get(there)
    if "/login" in answer.headers["location"]:
        asked = browser.get(str(answer.url.join(answer.headers["location"])))
        token = asked.text.partition('name="csrfmiddlewaretoken" value="')[2].partition('"')[0]
        form = {"username": USER, "password": PASSWORD, "csrfmiddlewaretoken": token}
        answer = browser.post(str(asked.url), data=form)
        answer = browser.get(str(asked.url.join(answer.headers["location"])))
    assert answer.status_code == 302, answer.text
    return answer.headers["location"]


def changed(url: str, **changes: str) -> str:
    """An address with other values in its query."""
    parts = urlsplit(url)
    query = {name: values[0] for name, values in parse_qs(parts.query).items()} | changes
    return urlunsplit(parts._replace(query=str(httpx2.QueryParams(query))))


def refused(browser: httpx2.Client, url: str) -> None:
    answer = browser.get(url)
    assert answer.status_code == 401
    assert "The provider has not signed you in; try again." in answer.text
    assert "seigh" not in answer.cookies
    assert "Traceback" not in answer.text


def test_the_provider_signs_somebody_in(browser: httpx2.Client, server: Server) -> None:
    assert "Sign in with your provider" in browser.get(f"{server.origin}/sign-in").text
    there = way_out(browser, server)
    asked = parse_qs(urlsplit(there).query)
    assert asked["code_challenge_method"] == ["S256"]
    assert asked["response_type"] == ["code"]
    assert {"state", "nonce", "code_challenge"} <= asked.keys()
    back = way_back(browser, there)
    answer = browser.get(back)
    assert (answer.status_code, answer.headers["location"]) == (303, "/runs")
    assert browser.get(f"{server.origin}/").status_code == 200
    with sessions(server.env.database)() as s:
        account = accounts.find(s, USER)
        assert (account.role, account.password) == (Role.member, None)
    refused(browser, back)  # a second time

    with sessions(server.env.database).begin() as s:
        accounts.set_role(s, OPERATOR, USER, Role.reader)
        accounts.set_disabled(s, OPERATOR, USER, True)
    assert browser.get(f"{server.origin}/").status_code == 401
    answer = browser.get(way_back(browser, way_out(browser, server)))
    assert answer.status_code == 401
    assert "is disabled; ask an admin" in answer.text
    with sessions(server.env.database).begin() as s:
        accounts.set_disabled(s, OPERATOR, USER, False)
        assert accounts.find(s, USER).role is Role.reader  # as somebody has decided meanwhile


def test_a_changed_state_nonce_or_signature_signs_nobody_in(
    browser: httpx2.Client, server: Server, folder: Path
) -> None:
    back = way_back(browser, way_out(browser, server))
    refused(browser, changed(back, state="somebody-elses"))
    refused(browser, changed(back, code="made-up"))
    with httpx2.Client() as other:  # a link that somebody else has begun
        refused(other, back)
    refused(browser, way_back(browser, changed(way_out(browser, server), nonce="another")))
    refused(browser, way_back(browser, changed(way_out(browser, server), code_challenge="A" * 43)))
    (folder / "tamper").touch()
    refused(browser, way_back(browser, way_out(browser, server)))
    (folder / "tamper").unlink()
    assert browser.get(way_back(browser, way_out(browser, server))).status_code == 303


def test_nobody_takes_over_an_account_of_the_same_name(browser: httpx2.Client, server: Server) -> None:
    with sessions(server.env.database).begin() as s:
        accounts.find(s, USER).name = "renamed"
        s.flush()
        known = accounts.known_elsewhere(s, "http://issuer", "7", "somebody", Role.reader)
        assert accounts.known_elsewhere(s, "http://issuer", "7", "admin", Role.reader).id == known.id
        with pytest.raises(accounts.AccountError, match="There is an account 'admin' already"):
            accounts.known_elsewhere(s, "http://issuer", "8", "admin", Role.reader)
