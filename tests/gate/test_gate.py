"""The gate before a dashboard for this machine alone: names, origins, headers and uploads."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator

import pytest
from streamlit.web.server.starlette import starlette_server
from websockets.exceptions import InvalidStatus

from seigh.app import serve
from seigh.app.gate import static, turns
from seigh.app.gate.origins import Hosts
from seigh.core.settings import SettingsError
from tests.gate.conftest import HOST, Server, Tab

pytestmark = pytest.mark.stack

UPLOADS = "/_stcore/upload_file"

# A file of Streamlit's that the gate keeps in memory.
FONT = "/static/media/" + min(file.name for file in (static.FOLDER / "media").glob("SourceSans*.woff2"))


@pytest.fixture(scope="module")
def tab(local: Server) -> Iterator[Tab]:
    """An open page, New analysis, which has run."""
    with local.page() as tab:
        tab.run("new_analysis")
        yield tab


@pytest.mark.parametrize(
    "path",
    ["/", "/runs", "/_stcore/health", "/_stcore/host-config", "/media/x", "/static/x", FONT, "/page.js"],
)
@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:{port}", "localhost.evil.example", "127.0.0.1.evil.example", "", "[::2]"],
)
def test_a_foreign_name_gets_nothing(local: Server, path: str, host: str) -> None:
    """DNS rebinding: a browser that was led here believes to talk to somebody else, and says so."""
    answer = local.ask(path, headers={"Host": host.format(port=local.port)})
    assert answer.status in (400, 421)
    assert "SEIGH Lab" not in answer.body
    assert "Streamlit" not in answer.body


def test_what_streamlit_has_is_answered_from_memory_and_nothing_else(local: Server) -> None:
    script = max((static.FOLDER / "js").iterdir())
    for _ in range(2):
        answer = local.ask(f"/static/js/{script.name}")
        assert answer.status == 200
        assert answer.body == script.read_text(encoding="utf-8")
        assert answer.headers["content-type"].startswith("text/javascript")
        assert answer.headers["cache-control"] == "public, immutable, max-age=31536000"
        assert answer.headers["x-content-type-options"] == "nosniff"
    assert local.ask("/static/..%2f..%2f..%2fversion.py").status != 200


def test_no_message_waits_until_the_one_before_it_is_confirmed(monkeypatch: pytest.MonkeyPatch) -> None:
    # The test puts it back.
    monkeypatch.setattr(starlette_server, "_bind_socket", starlette_server._bind_socket)
    serve._send_at_once()
    with (
        starlette_server._bind_socket(HOST, 0, 1) as listening,
        socket.create_connection(listening.getsockname()),
        listening.accept()[0] as connection,
    ):
        assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_charts_are_drawn_in_turn_by_a_script_that_browsers_ask_for_anew(local: Server) -> None:
    (script,) = (static.FOLDER / "js").glob("ArrowVegaLiteChart.*.js")
    answer = local.ask(f"/static/js/{script.name}")
    assert answer.body.count("seighInTurn(") == 3  # a new chart, one with other data, and the function
    assert answer.headers["cache-control"] == "no-cache"
    again = local.ask(f"/static/js/{script.name}", headers={"If-None-Match": answer.headers["etag"]})
    assert (again.status, again.body) == (304, "")
    other = script.read_text(encoding="utf-8").replace("updateView:", "renewView:")
    assert turns.in_turn(other) == other  # another version of Streamlit may have it so


def test_two_names_at_once_get_nothing(local: Server) -> None:
    with socket.create_connection((HOST, local.port)) as raw:
        raw.sendall(f"GET / HTTP/1.1\r\nHost: {HOST}\r\nHost: evil.example\r\n\r\n".encode())
        assert raw.recv(100).split()[1] in (b"400", b"421")


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST:{port}", "127.0.0.1:{port}", "[::1]:1", "lab.example.org"]
)
def test_our_own_names_are_answered(local: Server, host: str) -> None:
    assert local.ask("/_stcore/health", headers={"Host": host.format(port=local.port)}).status == 200


def test_the_script_of_every_page_comes_from_us(local: Server) -> None:
    """Else Back would need two presses, in silence; a page allows no scripts but our own server's."""
    answer = local.ask("/page.js")
    assert answer.status == 200
    assert "javascript" in answer.headers["content-type"]
    assert "history.pushState" in answer.body


FOREIGN = [
    "http://evil.example",
    "http://localhost:{other}",
    "https://127.0.0.1:{port}",
    "null",
    "file://",
    "",
]


@pytest.mark.parametrize("origin", FOREIGN)
def test_pages_of_others_can_do_nothing_here(local: Server, tab: Tab, origin: str) -> None:
    origin = origin.format(port=local.port, other=local.port + 1)
    for method in ("GET", "POST", "PUT", "DELETE", "OPTIONS"):
        answer = local.ask("/_stcore/health", method, headers={"Origin": origin})
        assert answer.status == 403
        assert answer.headers.get("access-control-allow-origin") is None
    with pytest.raises(InvalidStatus, match="403"), local.page(Origin=origin):
        pass
    for method in ("PUT", "DELETE"):
        assert local.ask(tab.address(), method, headers={"Origin": origin}, body=b"x").status == 403


def test_what_changes_something_says_where_it_comes_from(local: Server) -> None:
    assert local.ask(f"{UPLOADS}/a/b", "PUT", body=b"x", own=False).status == 403


def test_the_origin_that_a_proxy_shows_is_ours(local: Server) -> None:
    with local.page(Origin="https://seigh.example.org") as tab:
        tab.run()
        assert "This lab is empty" in tab.shown


def test_the_internet_is_asked_nothing(local: Server) -> None:
    """Streamlit would ask a service for its own address where Origin and Host differ in a letter."""
    with local.page(called="lab.example.org", Origin=f"http://LAB.example.org:{local.port}") as tab:
        tab.run()
    with pytest.raises(InvalidStatus), local.page(Origin="http://evil.example"):
        pass
    assert local.internet is not None
    with pytest.raises(BlockingIOError):
        local.internet.accept()


def test_every_answer_forbids_frames_and_foreign_content(local: Server) -> None:
    for path, headers in (
        ("/", {}),
        ("/_stcore/health", {}),
        ("/nothing", {}),
        ("/", {"Host": "evil.example"}),
    ):
        found = local.ask(path, headers=headers).headers
        assert found["x-frame-options"] == "DENY"
        assert found["x-content-type-options"] == "nosniff"
        assert found["referrer-policy"] == "same-origin"
        assert found["cache-control"] == "no-store"
        policy = found["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "unsafe-eval" not in policy
        assert "'unsafe-inline'" not in policy.partition("script-src")[2].partition(";")[0]


def test_a_page_uploads_to_the_address_that_it_was_given(local: Server, tab: Tab) -> None:
    path = tab.address()
    assert tab.put(path).status == 204
    answer = local.ask(path, "DELETE", headers={"X-Xsrftoken": tab.token}, cookie=tab.cookies)
    assert answer.status == 204


@pytest.mark.parametrize(
    "file",
    [
        "..",
        "%2e%2e",
        "%252e%252e",
        "..%2f..%2fx",
        "%2fetc%2fx",
        "/etc/x",
        "x%00",
        "link",
        "a.b",
        "%c0%ae",
        "%20",
        "A" * 36,
    ],
)
def test_an_id_that_is_none_writes_nothing(local: Server, tab: Tab, file: str) -> None:
    before = everything(local)
    for path in (
        f"{UPLOADS}/{tab.session}/{file}",
        f"/{UPLOADS}/{tab.session}/{file}",
        f"{UPLOADS}/{file}/{file}",
    ):
        assert tab.put(path).status in (400, 403, 404, 405)
    assert everything(local) == before


def everything(server: Server) -> list[str]:
    """All files and folders of the server but those of its database and logs."""
    found = (str(path) for path in server.env.root.rglob("*"))
    return sorted(path for path in found if "seigh.db" not in path)


def test_no_upload_without_a_page_that_asked_for_it(local: Server, tab: Tab) -> None:
    given = tab.address()
    session, _, _ = given.removeprefix(f"{UPLOADS}/").partition("/")
    other = "0" * 8 + "-0000-4000-8000-" + "0" * 12
    assert tab.put(f"{UPLOADS}/{session}/{other}").status == 403  # an id that no page was given
    assert tab.put(given.replace(session, other)).status == 403  # a session that there is none of
    assert tab.put(given + "%20").status == 400


def test_uploads_are_bounded_each_and_together(local: Server, tab: Tab) -> None:
    with socket.create_connection((HOST, local.port)) as raw:
        head = f"PUT {tab.address()} HTTP/1.1\r\nHost: {HOST}:{local.port}\r\nOrigin: {local.origin}\r\n"
        head += f"X-Xsrftoken: {tab.token}\r\nCookie: {tab.cookies}\r\n"
        head += "Content-Type: multipart/form-data; boundary=b\r\n"
        raw.sendall(f"{head}Content-Length: {2**40}\r\n\r\n".encode())
        assert raw.recv(100).split()[1] == b"413"
    with socket.create_connection((HOST, local.port)) as raw:
        raw.sendall(f"{head}Transfer-Encoding: chunked\r\n\r\n".encode())
        assert raw.recv(100).split()[1] == b"411"

    waiting = [socket.create_connection((HOST, local.port)) for _ in range(3)]
    try:
        for raw in waiting:  # of two GiB each; all of them together may be four
            raw.sendall(f"{head}Content-Length: {2**31}\r\n\r\n".encode())
            time.sleep(0.2)
        assert {raw.recv(100).split()[1] for raw in waiting[-1:]} == {b"507"}
    finally:
        for raw in waiting:
            raw.close()


def test_nobody_comes_back_to_the_session_of_somebody_else(local: Server, tab: Tab) -> None:
    """Here all are one and the same, so the session is found again; a made-up one is not."""
    with local.page(session="0" * 36) as other:
        assert other.run() != "0" * 36


def test_what_seigh_hosts_cannot_mean_is_said() -> None:
    with pytest.raises(SettingsError, match="SEIGH_HOSTS names 'ftp://lab'"):
        Hosts.of("127.0.0.1", ["ftp://lab"])
    with pytest.raises(SettingsError, match="SEIGH_HOSTS"):
        Hosts.of("127.0.0.1", ["lab.example.org/path"])
