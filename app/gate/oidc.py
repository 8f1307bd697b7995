"""Sign-in with an OpenID Connect provider: the code flow with PKCE, state and nonce, by Authlib."""

from __future__ import annotations

import logging
import secrets
from dataclasses import dataclass
from typing import Any

from authlib.integrations.base_client import OAuthError
from authlib.integrations.starlette_client import OAuth
from starlette.middleware import Middleware
from starlette.middleware.sessions import SessionMiddleware
from starlette.requests import Request
from starlette.responses import Response

from seigh.core.errors import UserError
from seigh.core.settings import Settings, SettingsError

_MINUTES = 10  # from the way out to the way back

logger = logging.getLogger(__name__)


class ProviderError(UserError):
    """The provider has not signed somebody in; the message is one sentence for them."""


@dataclass(frozen=True)
class Person:
    """Somebody whom the provider knows.

    Attributes:
        subject: What it calls them, for ever.
        name: What people call them.
    """

    subject: str
    name: str


class Provider:
    """The provider of an installation.

    Raises:
        SettingsError: If a setting is missing.
    """

    def __init__(self, env: Settings) -> None:
        if not env.oidc_client_id:
            raise SettingsError("SEIGH_OIDC_ISSUER needs SEIGH_OIDC_CLIENT_ID beside it; set it.")
        self._name = env.oidc_name
        self._secret = secrets.token_urlsafe(32)
        self._issuer = env.oidc_issuer.rstrip("/")
        confidential = env.oidc_client_secret.get_secret_value()
        self._client: Any = OAuth().register(
            "provider",
            client_id=env.oidc_client_id,
            client_secret=confidential or None,
            server_metadata_url=f"{self._issuer}/.well-known/openid-configuration",
            client_kwargs={
                "scope": "openid profile",
                "code_challenge_method": "S256",
                **({} if confidential else {"token_endpoint_auth_method": "none"}),
            },
        )

    def middleware(self) -> list[Middleware]:
        """Return the middleware that keeps state and nonce, signed, in the browser during a sign-in."""
        return [
            Middleware(
                SessionMiddleware,
                secret_key=self._secret,
                session_cookie="seigh_oidc",
                max_age=_MINUTES * 60,
                same_site="lax",
                path="/sign-in",
            )
        ]

    async def redirect(self, request: Request, back: str) -> Response:
        """The way to the provider, which sends the browser ``back``.

        Raises:
            ProviderError: If it does not answer.
        """
        try:
            await self._check_issuer()
            answer: Response = await self._client.authorize_redirect(request, back)
        except ProviderError:
            raise
        except Exception as error:
            raise _failed(error) from error
        return answer

    async def person(self, request: Request) -> Person:
        """Whom the provider has signed in, from its answer.

        Raises:
            ProviderError: If it has not, or the answer is not one to our question.
        """
        try:
            await self._check_issuer()
            token = await self._client.authorize_access_token(request)
            claims = token.get("userinfo")
            if not claims:
                raise OAuthError("no_id_token")
            subject, name = str(claims["sub"]), claims.get(self._name)
            if not name:
                more = await self._client.userinfo(token=token)
                name = more.get(self._name) if str(more.get("sub")) == subject else None
        except ProviderError:
            raise
        except Exception as error:
            raise _failed(error) from error
        if not isinstance(name, str) or not name.strip():
            raise ProviderError(f"The provider does not tell your name ({self._name}); ask an admin.")
        return Person(subject, name.strip())

    async def _check_issuer(self) -> None:
        """Refuse a description that is somebody else's."""
        described = await self._client.load_server_metadata()
        if str(described.get("issuer", "")).rstrip("/") != self._issuer:
            raise ProviderError("The provider is not the one of SEIGH_OIDC_ISSUER; an admin has to mend it.")


def _failed(error: Exception) -> ProviderError:
    # Whatever it is, of HTTP, OAuth or the token, the person can only begin again.
    logger.warning("A sign-in with the provider failed: %s: %s", type(error).__name__, error)
    return ProviderError("The provider has not signed you in; try again.")
