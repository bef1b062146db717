"""One HTTP call under one wall-clock deadline, its answer bounded, its faults translated.

Nothing that this module raises holds a key, a prompt or the proxy's password: errors are raised outside the `except`
blocks, so that they carry no foreign exception and no request object, not even as `__context__`, and what a call
carries (`Payload`, `KeyHeader`) has no printable content.
"""

import functools
import json
import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from http.client import HTTPException
from typing import TYPE_CHECKING, Any, Final, cast

import requests
from pydantic import SecretStr
from requests.auth import AuthBase
from requests.structures import CaseInsensitiveDict
from urllib3.exceptions import HTTPError, NewConnectionError
from urllib3.exceptions import TimeoutError as TransportTimeout

from gateway.errors import ErrorCode, GatewayError, Unwanted, UpstreamFailed
from gateway.providers.connections import DeadlineAdapter, current_call
from gateway.providers.deadlines import Call, Deadlines
from gateway.providers.encodings import TooLarge, decoded
from gateway.providers.live import Live
from gateway.providers.responses import Answer
from gateway.secrets import ApiKey

if TYPE_CHECKING:
    from requests.structures import CaseInsensitiveDict

#: Above every real answer (a model's longest output is some 250 kB of text), below what hurts a small machine, and
#: below RabbitMQ's limit of 16 MiB for the envelope that it becomes part of.
MAX_BODY_BYTES: Final = 8 * 1024 * 1024
#: How many times as large a stream may be: it has some 300 bytes for each word, and a document has the word.
STREAM_FACTOR: Final = 4
#: At least the number of threads that share the transport; a spare place costs nothing.
POOL_SIZE: Final = 1024

#: Of every call. Compression saves nothing that counts and would let a small body grow.
_HEADERS: Final[Mapping[str, str | bytes]] = {
    "Accept": "application/json",
    "Accept-Encoding": "identity",
    "User-Agent": "gemini-openrouter-worker",
}
#: What requests, urllib3 and http.client raise. ValueError: a header that is not one, its value in the text.
_FAULTS = (requests.RequestException, HTTPError, HTTPException, OSError, ValueError)
_TUNNEL_STATUS = re.compile(r"Tunnel connection failed: (\d{3})")


class Payload:
    """A JSON body whose content cannot be printed by accident: it holds a prompt."""

    __slots__ = ("data",)

    def __init__(self, content: Mapping[str, Any]) -> None:
        self.data = json.dumps(content, allow_nan=False).encode()  # ASCII: escapes a lone surrogate, too

    def __repr__(self) -> str:
        return f"<payload of {len(self.data)} bytes>"


class KeyHeader(AuthBase):
    """Puts an API key into its header inside requests, so that no variable of ours ever holds the header."""

    def __init__(self, key: ApiKey, *, header: str, prefix: str = "") -> None:
        self._key, self._header, self._prefix = key, header, prefix

    def __call__(self, prepared: requests.PreparedRequest) -> requests.PreparedRequest:
        prepared.headers[self._header] = self._prefix + self._key.reveal()
        return prepared


@dataclass(frozen=True, slots=True)
class HttpRequest:
    """A call to make: a POST of `payload`, a GET without one."""

    url: str
    auth: AuthBase | None = None
    headers: Mapping[str, str | bytes] = field(default_factory=dict)
    payload: Payload | None = None

    @property
    def method(self) -> str:
        return "GET" if self.payload is None else "POST"

    @property
    def body(self) -> bytes | None:
        return None if self.payload is None else self.payload.data

    @property
    def all_headers(self) -> dict[str, str | bytes]:
        if self.payload is None:
            return {**_HEADERS, **self.headers}
        content = {"Content-Type": "application/json", "Content-Length": str(len(self.payload.data))}
        return {**_HEADERS, **content, **self.headers}


class Transport:
    """Makes HTTP calls for the threads of one process, over pooled connections. Thread-safe.

    Certificates are always verified, redirects never followed, proxy and credentials of the machine's environment not
    used, cookies not kept. `proxy` is a URL that may hold a user and a password.
    """

    def __init__(
        self, *, proxy: SecretStr | None = None, pool_size: int = POOL_SIZE, max_body_bytes: int = MAX_BODY_BYTES
    ) -> None:
        self._proxy = proxy
        self._max_body_bytes = max_body_bytes
        self._deadlines = Deadlines()
        # The adapter alone: a session would merge settings that are not ours to use into every call, keep cookies,
        # which would tell the provider what keys belong together, and follow redirects.
        self._adapter = DeadlineAdapter(pool_size=pool_size)

    def send(self, outgoing: HttpRequest, *, deadline_s: float, live: Live | None = None) -> Answer:
        """The whole answer within `deadline_s` seconds, else `UpstreamFailed`. Sent at most once.

        `reason` of the error is `deadline` (with code TIMEOUT), `network`, `proxy`, `too_large` or `redirect`.
        `live` is fed with a success while it comes, and may end the call: then Unwanted.
        """
        call = Call(deadline_s)
        token = current_call.set(call)
        self._deadlines.watch(call)
        if live is not None:
            live.attach(call)
        try:
            outcome: Answer | GatewayError = self._exchange(outgoing, call, live)
        except _FAULTS as fault:
            outcome = _translate(fault, call)
        finally:
            call.finish()
            self._deadlines.forget(call)
            current_call.reset(token)
        if call.expired:  # a body without a length ends like a whole one when its connection is shut down
            outcome = _deadline_passed()
        if call.abandoned:
            outcome = Unwanted("Cancelled by its sender", code=ErrorCode.CANCELLED)
            outcome.may_be_billed = True
        if isinstance(outcome, GatewayError):
            raise outcome
        return outcome

    def close(self) -> None:
        """Close idle connections and end calls that are still running. Idempotent."""
        self._deadlines.stop(timeout_s=1.0)
        self._adapter.close()

    def _exchange(self, outgoing: HttpRequest, call: Call, live: Live | None) -> Answer | UpstreamFailed:
        with self._adapter.send(
            _prepared(outgoing), stream=True, timeout=call.remaining_s, verify=True, proxies=self._proxies()
        ) as response:
            return _refusal(response.status_code) or self._read(response, live)

    def _read(self, response: requests.Response, live: Live | None) -> Answer | UpstreamFailed:
        stated = response.headers.get("Content-Encoding", "")
        most = self._max_body_bytes
        if live is not None and response.status_code < HTTPStatus.MULTIPLE_CHOICES:
            most *= STREAM_FACTOR
            raw = _raw_live(response, most, live)
        else:
            raw = _raw(response, most + 1)
        try:
            plain, left = decoded(raw, stated, limit=most)
        except TooLarge:
            failed = _failed("too_large", f"sent more than {most} bytes", response.status_code)
            failed.may_be_billed = response.ok
            return failed
        return Answer(response.status_code, response.headers, plain, left)

    def _proxies(self) -> dict[str, str]:
        if self._proxy is None:
            return {}
        return dict.fromkeys(("http", "https"), self._proxy.get_secret_value())


def _raw(response: requests.Response, limit: int) -> bytes:
    """The bytes of the body, as they came, `limit` at most. What is cut is told by the read that finds no more."""
    body = b""
    while len(body) < limit and (part := response.raw.read(limit - len(body), decode_content=False)):
        body += part
    return body


def _raw_live(response: requests.Response, limit: int, live: Live) -> bytes:
    """The same, of more than `limit` bytes one more, and told as it comes: each read takes what is there."""
    live.begin(limit=limit)
    body = bytearray()
    while len(body) <= limit and (part := response.raw.read1(limit + 1 - len(body), decode_content=False)):
        body += part
        live.fed(part)
    return bytes(body)


def _prepared(outgoing: HttpRequest) -> requests.PreparedRequest:
    """As requests would prepare it, with the work on the URL done once."""
    prepared = requests.PreparedRequest()
    prepared.method, prepared.url, prepared.body = outgoing.method, _quoted(outgoing.url), outgoing.body
    # A plain dict: nobody asks for one in other letters than ours. requests takes bytes, its types do not.
    prepared.headers = cast("CaseInsensitiveDict[str]", outgoing.all_headers)
    if outgoing.auth is not None:
        outgoing.auth(prepared)
    return prepared


@functools.lru_cache(maxsize=256)
def _quoted(url: str) -> str | None:
    return requests.Request("POST", url).prepare().url


def _refusal(status: int) -> UpstreamFailed | None:
    if HTTPStatus.MULTIPLE_CHOICES <= status < HTTPStatus.BAD_REQUEST:
        return _failed("redirect", "answered with a redirect, which is not followed", status)
    if status == HTTPStatus.PROXY_AUTHENTICATION_REQUIRED:
        return _failed("proxy", "is out of reach: the proxy refused the connection (status 407)", status)
    return None


def _translate(fault: BaseException, call: Call) -> UpstreamFailed:
    if isinstance(fault, requests.Timeout | TransportTimeout) or call.expired or not call.remaining_s:
        return _deadline_passed()
    cause = _innermost(fault)
    refused = _TUNNEL_STATUS.search(str(cause))
    if refused:
        return _failed("proxy", f"is out of reach: the proxy refused the connection (status {refused.group(1)})")
    # The name of the class only: a text may hold a key, a URL or a password.
    if isinstance(fault, requests.exceptions.ProxyError):
        return _failed("proxy", f"is out of reach: the proxy failed ({type(cause).__name__})")
    failed = _failed("network", f"is out of reach ({type(cause).__name__})")
    failed.may_be_billed = not isinstance(cause, NewConnectionError | ConnectionRefusedError | socket.gaierror)
    return failed


def _deadline_passed() -> UpstreamFailed:
    passed = UpstreamFailed("The provider did not answer in time", reason="deadline", code=ErrorCode.TIMEOUT)
    passed.may_be_billed = True
    return passed


def _failed(reason: str, what: str, status: int | None = None) -> UpstreamFailed:
    return UpstreamFailed(f"The provider {what}", reason=reason, status=status)


def _innermost(fault: BaseException) -> BaseException:
    """The exception that requests and urllib3 have wrapped, each in its own way."""
    for inner in (getattr(fault, "reason", None), *fault.args, fault.__cause__):
        if isinstance(inner, BaseException):
            return _innermost(inner)
    return fault
