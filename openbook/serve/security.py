"""Who may ask, and what a browser may do with what it gets.

On loopback anybody on the machine may ask, but no page of another site through somebody's browser: requests carry the
name they were sent to (DNS rebinding) and, where they change something, the page they come from; both must be ours.
Elsewhere every request but for the page itself, and /health, needs the key.
"""

from __future__ import annotations

import hmac
import ipaddress
import logging
import time
from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from openbook.errors import Fault
from openbook.serve.errors import CLOSING, LATER, Refused
from openbook.serve.exchange import Exchange
from openbook.serve.metrics import Counts

log = logging.getLogger("openbook.serve")
LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
STILL_TOLD = frozenset({"/health", "/metrics"})
"""What is answered while the server closes."""
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
LEAST_KEY = 16
IDLE_SECONDS = 30.0
"""A body that does not go on for so long is given up."""
CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
    "font-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": CSP,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}


def is_loopback(host: str) -> bool:
    """Whether a server that is bound to this can be reached from this machine alone."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def check_bind(host: str, key: str | None) -> None:
    """Raise `Fault` for an address that others can reach without a key, and for a key that can be guessed."""
    if key is not None and (len(key) < LEAST_KEY or not key.isascii() or not key.isprintable()):
        raise Fault(
            f"the API key must have {LEAST_KEY} or more printable ASCII characters; make one: openssl rand -hex 32"
        )
    if key is None and not is_loopback(host):
        raise Fault(
            f"{host} can be reached from other machines: give a key (--api-key-file FILE, or OPENBOOK_API_KEY), "
            "or leave --host out"
        )


@dataclass
class Door:
    """Whether requests are still let in."""

    closing: bool = False


class Guard:
    """ASGI middleware around the whole app: refuses, counts, adds headers, and has the last word on errors.

    Behind a `door` that closes nobody is let in any more.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        counts: Counts,
        key: str | None = None,
        names: Iterable[str] = (),
        idle: float = IDLE_SECONDS,
        door: Door | None = None,
    ) -> None:
        self.app, self._counts, self._idle = app, counts, idle
        self.door = door or Door()
        self._key = None if key is None else key.encode()
        self._names = LOOPBACK | {name.lower() for name in names}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self.app(scope, receive, send)
            return
        began = time.perf_counter()
        exchange = Exchange(scope, receive, send, HEADERS, self._idle)
        try:
            self._check(scope)
            await self.app(scope, exchange.receive, exchange.send)
        except Exception as error:
            await exchange.failed(error)
        finally:
            route = getattr(scope.get("route"), "path", "other")
            method = scope["method"] if scope["method"] in _METHODS else "other"
            self._counts.requests[method, route, exchange.status] += 1
            # The address as the route says it: no names of documents, no queries.
            log.info("%s %s %d %.0f ms", method, route, exchange.status, 1e3 * (time.perf_counter() - began))

    def _check(self, scope: Scope) -> None:
        headers = Headers(scope=scope)
        if "transfer-encoding" in headers and "content-length" in headers:
            # Two lengths of one body: whoever stands before us may have read another request in it (RFC 9112, 6.1).
            raise Refused(400, "a request has one length", headers={"Connection": "close"})
        host = self._host(headers)
        path, method = scope["path"], scope["method"]
        inside = path.startswith(("/v1/", "/mcp")) or path == "/metrics"
        site = headers.get("sec-fetch-site")
        if inside and site in ("cross-site", "same-site"):
            raise Refused(403, "a page of another site may not use this server", code="cross_site")
        origin = headers.get("origin")
        if origin is not None and method not in SAFE_METHODS and _host_of(origin) != host:
            raise Refused(403, "a page of another site may not use this server", code="cross_site")
        if inside and self._key is not None:
            self._check_key(headers)
        if self.door.closing and path not in STILL_TOLD:
            raise Refused(503, CLOSING, code="server_is_closing", headers=LATER | {"Connection": "close"})

    def _host(self, headers: Headers) -> str:
        given = headers.getlist("host")
        if len(given) != 1:
            raise Refused(400, "a request must have one Host header")
        host = given[0].lower()
        try:
            name = urlsplit(f"//{host}").hostname or ""
        except ValueError:
            name = ""
        # An address by numbers cannot be another site's name that was pointed here.
        if name not in self._names and not _is_address(name):
            raise Refused(403, f"this server is not called {name[:100]!r}; to allow that: --host-name", code="host")
        return host

    def _check_key(self, headers: Headers) -> None:
        scheme, _, given = headers.get("authorization", "").partition(" ")
        known = self._key or b""
        if scheme.lower() != "bearer" or not hmac.compare_digest(given.strip().encode("utf-8", "replace"), known):
            message = "this server needs its API key: send the header Authorization: Bearer KEY"
            raise Refused(401, message, code="invalid_api_key", headers={"WWW-Authenticate": "Bearer"})


_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


def _host_of(origin: str) -> str | None:
    """The host and port of an origin; None where it has none."""
    try:
        return urlsplit(origin).netloc.lower() or None
    except ValueError:
        return None


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
