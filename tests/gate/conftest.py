"""The dashboard as a process of its own, and what a browser or an attacker sends it."""

from __future__ import annotations

import http.client
import os
import secrets
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlencode

import pytest
from streamlit.proto.BackMsg_pb2 import BackMsg
from streamlit.proto.ForwardMsg_pb2 import ForwardMsg
from websockets.sync.client import ClientConnection, connect

from seigh.app.cli import launch
from seigh.core.access import OPERATOR, Role
from seigh.core.lab import accounts
from seigh.core.lab.session import close, migrate, sessions
from seigh.core.settings import Settings
from tests.serving import dashboard

HOST = "127.0.0.1"
PASSWORDS = {role.value: secrets.token_urlsafe(12) for role in Role}  # of the accounts of these names


@dataclass
class Answer:
    """What came back."""

    status: int
    headers: http.client.HTTPMessage
    body: str

    @property
    def cookie(self) -> str:
        """The cookie that it sets, as a browser would send it back."""
        for line in self.headers.get_all("set-cookie", []):
            if line.startswith(("seigh=", "__Host-seigh=")):
                return line.partition(";")[0]
        return ""


@dataclass
class Server:
    """A dashboard that runs.

    Attributes:
        port: Where, on every address of this machine.
        env: Its installation.
        log: What it has said.
        internet: Where its questions to the internet would arrive.
    """

    port: int
    env: Settings
    log: Path
    internet: socket.socket | None = None

    @property
    def origin(self) -> str:
        return f"http://{HOST}:{self.port}"

    def ask(
        self,
        path: str,
        method: str = "GET",
        *,
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
        cookie: str = "",
        own: bool = True,
    ) -> Answer:
        """Send a request; ``own``: as a page of the server's own does."""
        connection = http.client.HTTPConnection(HOST, self.port, timeout=30)
        sent = dict(headers or {})
        if own and method not in ("GET", "HEAD"):
            sent.setdefault("Origin", self.origin)
        if cookie:
            sent["Cookie"] = f"{cookie}; {sent['Cookie']}" if "Cookie" in sent else cookie
        try:
            connection.request(method, path, body, sent)
            found = connection.getresponse()
            return Answer(found.status, found.headers, found.read().decode("utf-8", "replace"))
        finally:
            connection.close()

    def post(self, path: str, cookie: str = "", **fields: str) -> Answer:
        """Send a form."""
        kind = {"Content-Type": "application/x-www-form-urlencoded"}
        return self.ask(path, "POST", headers=kind, body=urlencode(fields).encode(), cookie=cookie)

    def sign_in(self, name: str, password: str | None = None, cookie: str = "") -> Answer:
        return self.post("/sign-in", cookie, name=name, password=password or PASSWORDS[name])

    @contextmanager
    def page(self, cookie: str = "", session: str = "", called: str = HOST, **headers: str) -> Iterator[Tab]:
        """An open page: its WebSocket, as Streamlit's own script opens it; ``called``: in its Host header."""
        token = self.ask("/_stcore/health", cookie=cookie).headers.get("set-cookie", "").partition(";")[0]
        cookies = "; ".join(each for each in (cookie, token) if each)
        protocols = ["streamlit", token.partition("=")[2] or "none", *([session] if session else [])]
        sent = {"Origin": self.origin, "Cookie": cookies} | headers
        with connect(
            f"ws://{called}:{self.port}/_stcore/stream",
            sock=socket.create_connection((HOST, self.port)),
            additional_headers=[(name, value) for name, value in sent.items() if name != "Origin"],
            origin=sent["Origin"],  # type: ignore[arg-type]
            subprotocols=protocols,  # type: ignore[arg-type]
            max_size=None,
        ) as opened:
            yield Tab(self, opened, cookies, token.partition("=")[2])


@dataclass
class Tab:
    """A page in a browser."""

    server: Server
    socket: ClientConnection
    cookies: str
    token: str
    session: str = ""
    shown: str = ""

    def send(self, message: BackMsg) -> None:
        self.socket.send(message.SerializeToString())

    def until(self, wanted: str, seconds: float = 60) -> ForwardMsg:
        """The next message of a kind."""
        while True:
            message = ForwardMsg()
            message.ParseFromString(self.socket.recv(timeout=seconds))
            if message.WhichOneof("type") == wanted:
                return message

    def run(self, page: str = "") -> str:
        """Run a page's script to its end: the session, and all that it shows, are in the answer."""
        message = BackMsg()
        message.rerun_script.page_name = page
        self.send(message)
        session, shown = "", []
        while True:
            found = ForwardMsg()
            found.ParseFromString(self.socket.recv(timeout=60))
            if found.WhichOneof("type") == "new_session":
                session = found.new_session.initialize.session_id
            if found.WhichOneof("type") == "delta":
                shown.append(str(found.delta))
            if found.WhichOneof("type") == "script_finished":
                self.session, self.shown = session, "\n".join(shown)
                return session

    def address(self, name: str = "step_1.pt") -> str:
        """The address that the server gives for a file."""
        message = BackMsg()
        message.file_urls_request.request_id = "1"
        message.file_urls_request.session_id = self.session
        message.file_urls_request.file_names.append(name)
        self.send(message)
        return self.until("file_urls_response").file_urls_response.file_urls[0].upload_url

    def put(self, path: str, content: bytes = b"x", name: str = "step_1.pt", cookie: str = "") -> Answer:
        """Upload a file to an address, as the page's own widget does."""
        boundary = "b" * 20
        body = (
            f'--{boundary}\r\nContent-Disposition: form-data; name="f"; filename="{name}"\r\n\r\n'.encode()
            + content
            + f"\r\n--{boundary}--\r\n".encode()
        )
        kind = {"Content-Type": f"multipart/form-data; boundary={boundary}", "X-Xsrftoken": self.token}
        return self.server.ask(path, "PUT", headers=kind, body=body, cookie=cookie or self.cookies)


@contextmanager
def serving(env: Settings, host: str, *options: str, **variables: str) -> Iterator[Server]:
    """A dashboard of an installation, whose temporary files are there too."""
    # From another number in each process of tests: a port is free until its server listens.
    port = launch.free_port(20_000 + os.getpid() % 20_000)
    with dashboard(env, host, port, *options, TMPDIR=str(env.root), **variables) as log:
        yield Server(port, env, log)


@pytest.fixture(scope="module")
def home_of_module(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    """An installation with an account of every role."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("SEIGH_")]:
            patch.delenv(name)
        patch.setenv("SEIGH_HOME", str(tmp_path_factory.mktemp("home")))
        patch.setenv("SEIGH_DEVICE", "cpu")
        env = Settings()
        migrate(env.database)
        with sessions(env.database).begin() as s:
            for name, password in PASSWORDS.items():
                accounts.add(s, OPERATOR, name, Role(name), password)
        yield env
        close(env.database)


@pytest.fixture(scope="module")
def local(home_of_module: Settings) -> Iterator[Server]:
    """A dashboard for this machine alone."""
    hosts = "lab.example.org, https://seigh.example.org"
    with (
        socket.create_server((HOST, 0)) as internet,
        serving(home_of_module, HOST, SEIGH_HOSTS=hosts, **through(internet)) as server,
    ):
        internet.setblocking(False)
        server.internet = internet
        yield server


def through(internet: socket.socket) -> dict[str, str]:
    """Variables that lead whatever a process asks on the internet to a socket of ours."""
    proxy = f"http://{HOST}:{internet.getsockname()[1]}"
    return dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), proxy)


@pytest.fixture(scope="module")
def open_to_all(home_of_module: Settings) -> Iterator[Server]:
    """A dashboard that others reach, who have to sign in."""
    with serving(home_of_module, "0.0.0.0", SEIGH_OIDC_ISSUER="") as server:
        yield server
