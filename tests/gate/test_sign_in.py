"""A dashboard that others reach: nobody gets in without signing in, and nobody does more than they may."""

from __future__ import annotations

import re
import threading
from datetime import timedelta

import pytest
from starlette.routing import Mount, Route, WebSocketRoute
from streamlit.proto.BackMsg_pb2 import BackMsg
from typer.testing import CliRunner
from websockets.exceptions import ConnectionClosed, InvalidStatus

from seigh.app.cli import command as cli
from seigh.app.gate import dashboard
from seigh.app.gate.visitors import access
from seigh.core.access import OPERATOR, AccessError, Actor, Role
from seigh.core.lab import accounts, actions, audit, queries
from seigh.core.lab.accounts import AccountError
from seigh.core.lab.models import Account, Analysis, Audit, SignIn
from seigh.core.lab.session import sessions
from seigh.core.settings import Settings, SettingsError
from seigh.tasks import submit
from tests.core.lab import lab
from tests.gate.conftest import PASSWORDS, Server, serving

pytestmark = pytest.mark.stack

ADA = Actor("ada", Role.member, "10.0.0.1")


@pytest.fixture(scope="module")
def cookies(open_to_all: Server) -> dict[str, str]:
    """The cookie of somebody of every role."""
    found = {name: open_to_all.sign_in(name).cookie for name in PASSWORDS}
    assert all(found.values())
    return found


def routes(env: Settings) -> list[tuple[str, str]]:
    """Every method and path of the running application; what matches anything, with an example."""
    application = dashboard.application(env, "0.0.0.0")._build_starlette_app()
    found = []
    for route in application.routes:
        match route:
            case Route():
                path = re.sub(r"\{[^}]*\}", "x", route.path)
                found += [(method, path) for method in sorted(route.methods or ())]
            case WebSocketRoute():
                found.append(("WEBSOCKET", route.path))
            case Mount():
                found += [
                    ("GET", f"{route.path}/{path}") for path in ("", "runs", "static/js/x.js", "index.html")
                ]
    return found


def test_no_route_lets_anybody_in(open_to_all: Server, home_of_module: Settings) -> None:
    known = routes(home_of_module)
    assert ("WEBSOCKET", "/_stcore/stream") in known
    assert ("PUT", "/_stcore/upload_file/x/x") in known
    assert len(known) > 20
    for cookie in ("", "seigh=made-up", "__Host-seigh=made-up", "_streamlit_user=x"):
        for method, path in known:
            if path.startswith("/sign-in"):
                continue
            if method == "WEBSOCKET":
                with pytest.raises(InvalidStatus, match="403"), open_to_all.page(cookie):
                    pass
                continue
            answer = open_to_all.ask(path, method, cookie=cookie)
            assert answer.status in (401, 403), (method, path)
            shown = open_to_all.ask(path, method, cookie=cookie, headers={"Accept": "text/html"})
            if shown.status == 303:
                assert shown.headers["location"].startswith("/sign-in?next=")
            else:
                assert shown.status in (401, 403), (method, path)
            assert "streamlit" not in (answer.body + shown.body).lower()


def test_identity_is_not_taken_from_headers(open_to_all: Server) -> None:
    for name in ("X-Seigh-Visitor", "X_Seigh_Visitor", "X-Forwarded-User", "Remote-User"):
        assert open_to_all.ask("/", headers={name: "local"}).status == 401
    assert open_to_all.ask("/_stcore/health", headers={"X-Forwarded-For": "127.0.0.1"}).status == 401


def test_a_session_opens_pages_and_the_page_knows_who_it_is(
    open_to_all: Server, cookies: dict[str, str]
) -> None:
    assert "<title>Streamlit" in open_to_all.ask("/", cookie=cookies["reader"]).body
    for name, forged in (("reader", "local"), ("member", "session 1")):
        with open_to_all.page(cookies[name], **{"X-Seigh-Visitor": forged}) as tab:
            tab.run()
            assert f"{name}, {name}" in tab.shown
            assert ("views/accounts" in tab.shown) is False


def test_a_readers_cookie_changes_nothing(
    open_to_all: Server, home_of_module: Settings, cookies: dict[str, str]
) -> None:
    env = home_of_module
    with sessions(env.database).begin() as s:
        number = lab.queue(s).id
        before = len(queries.runs(s))
    with open_to_all.page(cookies["reader"]) as tab:
        tab.run("new_analysis")
        assert "may look at results and change nothing" in tab.shown
        assert "file_uploader" not in tab.shown
        assert tab.put(tab.address()).status == 403
        tab.run("runs")
        assert "cancel_analysis" not in tab.shown
        # What the page of somebody else has as a button is none in a reader's.
        message = BackMsg()
        message.rerun_script.page_name = "runs"
        widget = message.rerun_script.widget_states.widgets.add()
        widget.id, widget.trigger_value = f"$$ID-0-really_cancel_analysis_{number}", True
        tab.send(message)
        tab.until("script_finished")
        tab.run("accounts")
        assert "Only admins keep the accounts" in tab.shown
    for method in ("POST", "PUT", "DELETE"):
        for path in ("/", "/_stcore/upload_file/x/x", "/_stcore/agent/interact"):
            assert open_to_all.ask(path, method, cookie=cookies["reader"]).status >= 400
    with sessions(env.database)() as s:
        runs = queries.runs(s)
        assert len(runs) == before
        assert set(runs["state"]) == {"queued"}


def test_what_readers_and_members_may_is_asked_where_it_is_done(home: Settings) -> None:
    reader, bob = Actor("eve", Role.reader), Actor("bob", Role.member)
    with sessions(home.database).begin() as s:
        number = lab.queue(s).id
    deeds = (
        lambda who: submit.submit([], model_name="m", settings=[], user=who, env=home),
        lambda who: submit.train("digits-mlp", "m", 1, [0], user=who, env=home),
        lambda who: submit.compare([1, 2], [1], user=who, env=home),
        lambda who: submit.retry(Analysis, number, home, user=who),
        lambda who: submit.delete(Analysis, number, home, user=who),
        lambda who: submit.delete_model(1, home, user=who),
    )
    for deed in deeds:
        with pytest.raises(AccessError, match="may look at results and change nothing"):
            deed(reader)
    for deed in deeds[3:]:
        with pytest.raises(AccessError, match="is by ada; only ada and admins may change it"):
            deed(bob)
    with sessions(home.database).begin() as s:
        for act in (actions.cancel, actions.retry, actions.delete):
            with pytest.raises(AccessError):
                act(s, bob, Analysis, number)
        with pytest.raises(AccessError):
            actions.pin(s, bob, number, True)
        actions.cancel(s, ADA, Analysis, number)
        actions.delete(s, OPERATOR, Analysis, number)
        done = audit.of(s, [("analysis", number)])
    assert done[["who", "what", "address"]].to_numpy().tolist() == [
        ["ada", "cancelled", "10.0.0.1"],
        ["operator", "deleted", "command line"],
    ]


def test_a_wrong_password_and_no_account_look_the_same(open_to_all: Server) -> None:
    wrong, none = (open_to_all.sign_in(name, "wrong password") for name in ("member", "nobody"))
    assert (wrong.status, wrong.body) == (none.status, none.body) == (401, wrong.body)
    assert not wrong.cookie
    assert "The name or the password is wrong." in wrong.body


def test_a_sign_in_is_a_new_session_that_ends(open_to_all: Server, home_of_module: Settings) -> None:
    """Session fixation: whoever has put a cookie into a browser has nothing of what is done in it later."""
    planted = open_to_all.sign_in("member").cookie
    answer = open_to_all.sign_in("reader", cookie=planted)
    assert answer.cookie not in ("", planted)
    assert open_to_all.ask("/", cookie=planted).status == 401
    line = answer.headers["set-cookie"].lower()
    assert "httponly" in line
    assert "samesite=lax" in line
    with sessions(home_of_module.database)() as s:
        kept = {each.token for each in s.query(SignIn)}
    assert not any(answer.cookie.partition("=")[2] in token for token in kept)  # hashed

    with open_to_all.page(answer.cookie) as tab:
        session = tab.run()
        signed_out = open_to_all.post("/sign-out", answer.cookie)
        assert (signed_out.status, signed_out.headers["location"]) == (303, "/sign-in")
        assert open_to_all.ask("/", cookie=answer.cookie).status == 401
        with pytest.raises(ConnectionClosed):
            tab.until("nothing that there is", seconds=30)
    member = open_to_all.sign_in("member").cookie
    with open_to_all.page(member, session=session) as other:
        assert other.run() != session  # nobody comes back to it


@pytest.mark.parametrize("how", ["expired", "revoked", "disabled", "password"])
def test_what_ends_sessions(open_to_all: Server, home_of_module: Settings, how: str) -> None:
    with sessions(home_of_module.database).begin() as s:
        name = f"somebody {how}"
        accounts.add(s, OPERATOR, name, Role.member, "a long password")
    cookie = open_to_all.sign_in(name, "a long password").cookie
    assert open_to_all.ask("/", cookie=cookie).status == 200
    with sessions(home_of_module.database).begin() as s:
        match how:
            case "expired":
                row = s.query(SignIn).join(Account).filter(Account.name == name).one()
                row.expires_at -= timedelta(days=8)
            case "revoked":
                accounts.revoke(s, OPERATOR, name)
            case "disabled":
                accounts.set_disabled(s, OPERATOR, name, True)
            case "password":
                accounts.set_password(s, OPERATOR, name, "another long password")
    assert open_to_all.ask("/", cookie=cookie).status == 401
    again = open_to_all.sign_in(name, "a long password").status
    assert again == (303 if how in ("expired", "revoked") else 401)


@pytest.mark.parametrize("wanted", ["//evil.example", "https://evil.example", "/\\evil", "javascript:x"])
def test_a_link_leads_nowhere_else(open_to_all: Server, wanted: str) -> None:
    who = {"name": "member", "password": PASSWORDS["member"]}
    answer = open_to_all.post("/sign-in", **who, next=wanted)
    assert (answer.status, answer.headers["location"]) == (303, "/")
    inside = open_to_all.post(
        "/sign-in", name="member", password=PASSWORDS["member"], next="/result?analysis=7"
    )
    assert inside.headers["location"] == "/result?analysis=7"


def test_guessing_is_slow(home: Settings) -> None:
    with sessions(home.database).begin() as s:
        accounts.add(s, OPERATOR, "ada", Role.member, "a long password")
    with serving(home, "0.0.0.0") as server:
        answers: list[int] = []
        threads = [
            threading.Thread(target=lambda: answers.append(server.sign_in("ada", "wrong").status))
            for _ in range(14)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(answers) == [401] * 10 + [429] * 4
        assert server.sign_in("ada", "a long password").status == 429
        with sessions(home.database).begin() as s:
            for row in s.query(Audit).filter(Audit.what == accounts.REFUSED):
                row.at -= timedelta(minutes=16)
        assert server.sign_in("ada", "a long password").status == 303


def test_one_address_is_not_asked_for_ever(home: Settings) -> None:
    with sessions(home.database).begin() as s:
        for number in range(30):
            accounts.attempt(s, f"name {number}", "10.0.0.1")
        with pytest.raises(AccountError, match="Too many attempts failed; try again in 15 minutes"):
            accounts.attempt(s, "another", "10.0.0.1")
        accounts.attempt(s, "another", "10.0.0.2")


def test_it_does_not_start_for_everybody(home: Settings) -> None:
    answer = CliRunner().invoke(cli.cli, ["app", "--host", "0.0.0.0"])
    assert isinstance(answer.exception, SettingsError)
    assert "seigh user add NAME --role admin" in str(answer.exception)
    assert "--behind-proxy" in str(answer.exception)
    with pytest.raises(SettingsError):
        access(home, "192.0.2.1", False)
    assert access(home, "127.0.0.2", False) is not None


def test_accounts_are_kept_on_the_command_line(home: Settings) -> None:
    def run(*arguments: str, said: str = "") -> str:
        found = CliRunner().invoke(cli.cli, ["user", *arguments], input=said, catch_exceptions=False)
        return found.output

    run("add", "ada", "--role", "admin", said="a long password\n")
    run("add", "bob", said="another password\n")
    assert run("list") == "ada: admin\nbob: member\n"
    run("role", "bob", "reader")
    run("disable", "bob")
    run("password", "ada", said="a third password\n")
    assert run("list") == "ada: admin\nbob: reader, disabled\n"
    with pytest.raises(AccountError, match="A password has 10 characters at least"):
        run("add", "eve", said="short\n")
    with pytest.raises(AccountError, match="There is an account 'ada' already"):
        run("add", "ada", said="a long password\n")
    for last in (("disable", "ada"), ("role", "ada", "member")):
        with pytest.raises(AccountError, match="ada is the last admin"):
            run(*last)
    with sessions(home.database)() as s:
        assert accounts.is_password(accounts.password_of(s, "ada"), "a third password")
        assert accounts.password_of(s, "bob") is None
        assert set(audit.latest(s, 10)["what"]) >= {
            "added as admin",
            "made reader",
            "disabled",
            "password changed",
        }


def test_behind_a_proxy_its_header_names_people_and_nobody_elses(home: Settings) -> None:
    with sessions(home.database).begin() as s:
        accounts.named_elsewhere(s, "ada", Role.admin)
    variables = {"SEIGH_PROXY_USER_HEADER": "X-Forwarded-User", "SEIGH_NEW_ROLE": "member"}
    with serving(home, "127.0.0.1", "--behind-proxy", **variables) as server:
        assert server.ask("/").status == 401
        assert server.ask("/", headers={"X-Seigh-Visitor": "local"}).status == 401
        for name, role in (("ada", "admin"), ("eve", "member")):
            assert server.ask("/", headers={"X-Forwarded-User": name}).status == 200
            with sessions(home.database)() as s:
                assert accounts.find(s, name).role == role
    with serving(home, "127.0.0.1", "--behind-proxy", SEIGH_PROXIES="192.0.2.1", **variables) as server:
        assert server.ask("/", headers={"X-Forwarded-User": "ada"}).status == 401
