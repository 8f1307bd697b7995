"""A real OpenID Connect provider, Django OAuth Toolkit, as a process of its own.

``python -m tests.gate.provider PORT FOLDER REDIRECT_URI``: its user is ``grace``, its client ``seigh``.

Where ``FOLDER/tamper`` exists, the signature of every ID token is damaged on the way to whoever asked for it.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, make_server

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

USER, PASSWORD = "grace", "compiler-1952"
CLIENT, SECRET = "seigh", "a secret of the client"

LOGIN = '<form method="post">{% csrf_token %}{{ form.as_p }}<button>Log in</button></form>'


def main(port: int, folder: Path, redirect_uri: str) -> None:
    """Serve until it is killed."""
    import django
    from django.conf import settings

    key = rsa.generate_private_key(public_exponent=65537, key_size=2048).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    settings.configure(
        SECRET_KEY="of a test",
        ALLOWED_HOSTS=["127.0.0.1"],
        ROOT_URLCONF=__name__,
        USE_TZ=True,
        SESSION_COOKIE_NAME="provider",
        CSRF_COOKIE_NAME="provider_csrf",
        LOGIN_URL="/login",
        DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
        INSTALLED_APPS=[
            "django.contrib.auth",
            "django.contrib.contenttypes",
            "django.contrib.sessions",
            "oauth2_provider",
        ],
        MIDDLEWARE=[
            "django.contrib.sessions.middleware.SessionMiddleware",
            "django.middleware.csrf.CsrfViewMiddleware",
            "django.contrib.auth.middleware.AuthenticationMiddleware",
        ],
        DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": folder / "provider.db"}},
        TEMPLATES=[
            {
                "BACKEND": "django.template.backends.django.DjangoTemplates",
                "OPTIONS": {
                    "loaders": [
                        ("django.template.loaders.locmem.Loader", {"registration/login.html": LOGIN}),
                        "django.template.loaders.app_directories.Loader",
                    ],
                    "context_processors": ["django.template.context_processors.request"],
                },
            }
        ],
        OAUTH2_PROVIDER={
            "OIDC_ENABLED": True,
            "OIDC_RSA_PRIVATE_KEY": key.decode(),
            "OIDC_ISS_ENDPOINT": f"http://127.0.0.1:{port}/o",
            "PKCE_REQUIRED": True,
            "SCOPES": {"openid": "who you are", "profile": "your name"},
            "OAUTH2_VALIDATOR_CLASS": "tests.gate.validator.Validator",
        },
    )
    django.setup()
    from django.contrib.auth.models import User
    from django.core.management import call_command
    from django.core.wsgi import get_wsgi_application
    from oauth2_provider.models import Application

    call_command("migrate", verbosity=0)
    User.objects.create_user(USER, password=PASSWORD)
    Application.objects.create(
        name="SEIGH Lab",
        client_id=CLIENT,
        client_secret=SECRET,
        client_type=Application.CLIENT_CONFIDENTIAL,
        authorization_grant_type=Application.GRANT_AUTHORIZATION_CODE,
        algorithm=Application.RS256_ALGORITHM,
        redirect_uris=redirect_uri,
        skip_authorization=True,
    )
    served = _tampering(get_wsgi_application(), folder / "tamper")
    make_server("127.0.0.1", port, served, handler_class=_Silent).serve_forever()


def _tampering(application: Any, when: Path) -> Callable[..., Iterable[bytes]]:
    def served(environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        found = application(environ, start)
        if environ["PATH_INFO"] != "/o/token/" or not when.exists():
            return found
        answer = json.loads(b"".join(found))
        head, claims, signature = answer["id_token"].split(".")
        swapped = signature[:10] + ("A" if signature[10] != "A" else "B") + signature[11:]
        answer["id_token"] = f"{head}.{claims}.{swapped}"
        return [json.dumps(answer).encode()]

    return served


class _Silent(WSGIRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


def __getattr__(name: str) -> Any:
    """``urlpatterns``, which can be imported only when Django is set up."""
    if name != "urlpatterns":
        raise AttributeError(name)
    from django.contrib.auth.views import LoginView
    from django.urls import include, path

    return [path("login", LoginView.as_view()), path("o/", include("oauth2_provider.urls"))]


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
