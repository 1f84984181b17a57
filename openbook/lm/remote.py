"""A model behind an OpenAI-compatible server: what may follow a text (its top log-probabilities), and whole answers.

Only the address that was named is spoken to: no redirects, no proxies. A request has so many seconds in all and its
reply so many bytes. What a server says is checked before it is believed.
"""

from __future__ import annotations

import http.client
import json
import math
import socket
import ssl
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from threading import Timer
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from openbook.errors import Fault
from openbook.lm.tokenizer import END_OF_TURN, well_formed

MOST_BYTES = 4 << 20
"""A reply that is longer is refused."""
MOST_TOLD = 128
"""Tokens of one distribution that are taken."""


class Told(NamedTuple):
    """The likeliest tokens by their bytes, natural logs; `log_end` of the end, `log_rest` of all that is not told."""

    tokens: dict[bytes, float]
    log_end: float
    log_rest: float


class Reply(NamedTuple):
    """A whole answer, and the tokens that the server says it read and wrote (0 where it does not say)."""

    text: str
    read: int
    written: int


@dataclass(frozen=True)
class Remote:
    """A model on a server: `address` with its path (`http://127.0.0.1:8080/v1`), and the name it has there.

    `top` log-probabilities are asked for; servers may give fewer. `key` is sent as a bearer token, but not in the clear
    to another machine.
    """

    address: str
    name: str
    key: str | None = field(default=None, repr=False)
    top: int = 20
    seconds: float = 60.0

    def __post_init__(self) -> None:
        try:
            parts = urlsplit(self.address)
            named = parts.scheme in ("http", "https") and bool((parts.hostname or "").encode("idna"))
            sound = named and parts.port != 0 and parts.username is None
        except ValueError:  # also of a host that can be no name
            sound = False
        written = self.address.isprintable() and " " not in self.address
        if not (sound and written and parts.path.isascii()):
            raise Fault(f"{self.address!r} is no address of a server; say it like http://127.0.0.1:8080/v1#model")
        if parts.query or parts.fragment:
            raise Fault(f"{self.address!r} has more than a path after the server's name; leave that out")
        if not self.name:
            raise Fault(f"{self.address} does not say which model; put its name after #: {self.address}#model")
        here = parts.hostname in ("localhost", "127.0.0.1", "::1")
        if self.key and parts.scheme == "http" and not here:
            raise Fault(f"a key is not sent in the clear to {parts.hostname}; use https")
        if self.key and not (self.key.isascii() and self.key.isprintable()):
            raise Fault(f"the key for {self.address} has a line break or what no key has; give it without")

    @classmethod
    def named(cls, address: str, key: str | None = None) -> Remote:
        """From `http://host:port/v1#model`; without a path it is `/v1`."""
        base, _, name = address.partition("#")
        base = base.rstrip("/")
        if base.count("/") == 2:
            base += "/v1"
        return cls(base, name, key)

    def told(self, prompt: str) -> Told:
        """What may follow a text. Raises `Fault` where the server does not tell, or tells nonsense."""
        asked = {"model": self.name, "prompt": prompt, "max_tokens": 1, "temperature": 1, "logprobs": self.top}
        said = self._post("/completions", asked)
        try:
            return _told(said["choices"][0]["logprobs"])
        except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
            raise Fault(
                f"{self.address} gives no log-probabilities of {self.name} ({type(error).__name__}: {error}); "
                "its /completions must answer logprobs"
            ) from error

    def chat(
        self,
        messages: Sequence[Mapping[str, str]],
        *,
        temperature: float,
        seed: int,
        max_tokens: int,
        response_format: Mapping[str, Any] | None = None,
    ) -> Reply:
        """A whole answer to chat messages; `response_format` is sent as it is given, where it is."""
        asked: dict[str, Any] = {
            "model": self.name, "messages": [dict(message) for message in messages], "temperature": temperature,
            "seed": seed, "max_tokens": max_tokens,
        }  # fmt: skip
        if response_format is not None:
            asked["response_format"] = response_format
        said = self._post("/chat/completions", asked)
        try:
            text, usage = said["choices"][0]["message"]["content"], said.get("usage") or {}
            counts = [usage.get(name) for name in ("prompt_tokens", "completion_tokens")]
            if not isinstance(text, str):
                raise ValueError("its content is no text")
            read, written = (n if isinstance(n, int) and 0 <= n < 1 << 31 else 0 for n in counts)
        except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
            raise Fault(f"{self.address} gives no answer of {self.name} ({type(error).__name__}: {error})") from error
        return Reply(well_formed(text), read, written)

    def _post(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if self.key:
            headers["Authorization"] = f"Bearer {self.key}"
        try:
            status, reply = self._exchange(urlsplit(self.address).path + path, json.dumps(body).encode(), headers)
        except (OSError, http.client.HTTPException) as error:
            why = str(error) or type(error).__name__
            raise Fault(f"{self.address} cannot be asked: {why}; does a server run there?") from error
        if status != 200:
            words = " ".join(reply[:300].decode("utf-8", "replace").split())
            raise Fault(f"{self.address} answers with status {status}: {words}")
        try:
            said = json.loads(reply, parse_constant=_refused)
        except (ValueError, RecursionError) as error:
            raise Fault(f"{self.address} does not answer in JSON: {error}") from error
        if not isinstance(said, dict):
            raise Fault(f"{self.address} answers with JSON that is no object")
        return said

    def _exchange(self, path: str, body: bytes, headers: Mapping[str, str]) -> tuple[int, bytes]:
        """Status and body of the reply, within `seconds` in all, however slowly the server speaks."""
        connection = self._connection()
        late: list[bool] = []
        connection.connect()
        line = connection.sock  # the connection forgets it where the reply ends with the line

        def end() -> None:
            late.append(True)
            with suppress(OSError):
                line.shutdown(socket.SHUT_RDWR)

        watch = Timer(self.seconds, end)
        watch.daemon = True
        watch.start()
        try:
            connection.request("POST", path, body, dict(headers))
            response = connection.getresponse()
            reply = response.read(MOST_BYTES + 1)
        except (OSError, http.client.HTTPException) as error:
            raise TimeoutError(f"no whole answer within {self.seconds:g} s") if late else error from None
        finally:
            watch.cancel()
            connection.close()
        if late:
            raise TimeoutError(f"no whole answer within {self.seconds:g} s")
        if len(reply) > MOST_BYTES:
            raise OSError(f"its answer is longer than {MOST_BYTES} bytes")
        return response.status, reply

    def _connection(self) -> http.client.HTTPConnection:
        parts = urlsplit(self.address)
        host, port = parts.hostname or "", parts.port
        if parts.scheme == "https":
            context = ssl.create_default_context()
            return http.client.HTTPSConnection(host, port, timeout=self.seconds, context=context)
        return http.client.HTTPConnection(host, port, timeout=self.seconds)


def _told(logprobs: Any) -> Told:
    """Both forms: a dict of tokens by their text (completions), a list with bytes (as of chat completions)."""
    pairs: list[tuple[str, bytes, float]] = []
    if logprobs.get("content"):
        for entry in logprobs["content"][0]["top_logprobs"]:
            given = entry.get("bytes")
            spelled = bytes(given) if isinstance(given, list) else entry["token"].encode()
            pairs.append((entry["token"], spelled, entry["logprob"]))
    else:
        pairs = [(token, token.encode(), log_p) for token, log_p in logprobs["top_logprobs"][0].items()]
    tokens: dict[bytes, float] = {}
    log_end = -math.inf
    for text, spelled, log_p in pairs[:MOST_TOLD]:
        if not isinstance(log_p, int | float) or not log_p <= 1e-3 or isinstance(log_p, bool):
            raise ValueError(f"{log_p!r} is no log-probability")
        if text in END_OF_TURN or not spelled:
            log_end = _added(log_end, log_p)
        elif "\ufffd" not in text or spelled != text.encode():  # else: a part of a character, and not said which
            tokens[spelled] = _added(tokens.get(spelled, -math.inf), log_p)
    total = math.fsum(map(math.exp, [*tokens.values(), log_end]))
    if not total <= 1.01:
        raise ValueError(f"its probabilities sum to {total:.3f}")
    if total > 1 - 1e-9:  # rounded up: all is told
        shift = math.log(total)
        return Told({spelled: log_p - shift for spelled, log_p in tokens.items()}, log_end - shift, -math.inf)
    return Told(tokens, log_end, math.log1p(-total))


def _added(one: float, other: float) -> float:
    top = max(one, other)
    return top if top == -math.inf else top + math.log(math.exp(one - top) + math.exp(other - top))


def _refused(constant: str) -> Any:
    raise ValueError(f"{constant} is no JSON")
