"""The registry protocol: one talk with one registry about one repository.

A blob's address at the registry redirects to a signed one elsewhere. That one is asked for once per blob and again when
it expires, and never sees the registry's token. Retries, disks and paths are not known here.
"""

import hashlib
import json
import re
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from datetime import timedelta
from email.utils import parsedate_to_datetime
from typing import Any

import httpx

from jobs.clock import Clock
from jobs.errors import (
    Corrupt,
    NewerOllamaNeeded,
    NotFound,
    ServerTrouble,
    TooManyRequests,
    Unauthorized,
    Unsupported,
)
from jobs.fetch import Stopped
from jobs.journal import Span
from jobs.manifests import MANIFEST_TYPE, MAX_MANIFEST_BYTES, Layer, Manifest, is_digest
from jobs.names import DEFAULT_HOST, DEFAULT_NAMESPACE, LOOKS_LIKE, ModelName
from jobs.transport import translated

_HOPS = 6
"""Requests for one answer: a login, and redirects."""

_LONGEST_WAIT = 24 * 3600

_PARAMETER = re.compile(r'(\w+)="([^"]*)"')
_CONTENT_RANGE = re.compile(r"bytes (\d{1,20})-(\d{1,20})/(\d{1,20}|\*)")

_LOGIN_HINT = "a private model can be pulled through an Ollama server whose key the registry knows"

_ACCEPT = f"{MANIFEST_TYPE}, application/vnd.oci.image.manifest.v1+json"


class Line:
    """Knows the addresses, the token, and every connection made for it; a `jobs.fetch.Source`."""

    def __init__(
        self,
        client: httpx.Client,
        base: httpx.URL,
        name: ModelName,
        *,
        clock: Clock,
        timeout: httpx.Timeout,
        agent: str,
    ) -> None:
        self._client = client
        self._base = base
        self._name = name
        self._clock = clock
        self._timeout = timeout
        self._agent = agent
        self._token: str | None = None
        self._addresses: dict[str, httpx.URL] = {}
        self._locks: dict[str, threading.Lock] = {}
        self._lock = threading.Lock()
        self._login = threading.Lock()
        self._streams: list[Any] = []
        self._stop = threading.Event()

    def sleep(self, seconds: float) -> None:
        if self._clock.wait(seconds, self._stop):
            raise Stopped

    def hang_up(self) -> None:
        self._stop.set()
        with self._lock:
            streams, self._streams = self._streams, []
        for stream in streams:
            _shut(stream)

    def manifest(self, reference: str) -> Manifest:
        url = self._url("manifests", reference)
        with self._ask(url, {"Accept": _ACCEPT}) as response:
            self._refuse(response, f"{self._name}")
            raw = bytearray()
            for chunk in response.iter_bytes():
                raw += chunk
                if len(raw) > MAX_MANIFEST_BYTES:
                    raise Corrupt(f"the manifest of {str(self._name)!r} is longer than {MAX_MANIFEST_BYTES} bytes")
            promised = response.headers.get("Docker-Content-Digest", "")
        got = f"sha256:{hashlib.sha256(raw).hexdigest()}"
        for wanted in (promised, reference):
            if is_digest(wanted) and wanted != got:
                raise Corrupt(f"the manifest of {str(self._name)!r} has digest {got}, not {wanted}")
        return Manifest.parse(bytes(raw))

    @contextmanager
    def open(self, layer: Layer, start: int, stop: int) -> Iterator[tuple[Span, Iterator[bytes]]]:
        """See `jobs.fetch.Source`."""
        whole = (start, stop) == (0, layer.size)
        headers = {"Accept-Encoding": "identity"} | ({} if whole else {"Range": f"bytes={start}-{stop - 1}"})
        with self._ask_blob(layer, headers) as response:
            if response.status_code == 416:
                raise Corrupt(
                    f"{layer.digest} is shorter at the registry than the {layer.size} bytes its manifest says"
                )
            self._refuse(response, f"blob {layer.digest} of {self._name}")
            yield _coming(response, layer, (start, stop)), response.iter_raw()

    @contextmanager
    def _ask_blob(self, layer: Layer, headers: dict[str, str]) -> Iterator[httpx.Response]:
        """Through the address known for this blob; through the registry when there is none or it has expired."""
        known = self._addresses.get(layer.digest)
        if known is not None:
            with self._ask(known, headers) as response:
                if response.status_code not in {401, 403, 404, 410}:
                    yield response
                    return
        with ExitStack() as stack:
            with self._lock:
                lock = self._locks.setdefault(layer.digest, threading.Lock())
            with lock:  # one thread asks the registry; the others wait for the address it learns
                address = self._addresses.get(layer.digest)
                if address is None or address == known:
                    response = stack.enter_context(self._ask(self._url("blobs", layer.digest), headers))
                    if response.is_success:
                        self._addresses[layer.digest] = response.url
                    address = None
            yield stack.enter_context(self._ask(address, headers)) if address else response

    @contextmanager
    def _ask(self, url: httpx.URL, headers: dict[str, str]) -> Iterator[httpx.Response]:
        """GET, with redirects followed and a challenge met once.

        Redirects are followed here and not by httpx, so that the token goes to the registry alone, and never from
        HTTPS to plain HTTP.
        """
        has_logged_in = False
        for _ in range(_HOPS):
            token = self._token if self._is_registry(url) else None
            with (
                translated(f"asking {url.host} for {str(self._name)!r}"),
                closing(self._send(url, headers, token)) as got,
            ):
                if got.status_code == 401 and self._is_registry(url) and not has_logged_in:
                    self._log_in(got, token)
                    has_logged_in = True
                elif got.has_redirect_location:
                    _drain(got)
                    url = _target(got)
                else:
                    yield got
                    return
        raise ServerTrouble(f"{self._base.host} redirects in circles for {str(self._name)!r}")

    def _send(
        self, url: httpx.URL, headers: dict[str, str], token: str | None = None, params: dict[str, str] | None = None
    ) -> httpx.Response:
        if self._stop.is_set():
            raise Stopped
        own = {"User-Agent": self._agent} | ({"Authorization": f"Bearer {token}"} if token else {})
        request = self._client.build_request(
            "GET",
            url,
            params=params,
            headers=headers | own,
            timeout=self._timeout,
            extensions={"trace": self._traced},
        )
        return self._client.send(request, stream=True, follow_redirects=False)

    def _traced(self, event: str, info: dict[str, Any]) -> None:
        """Remember each connection as httpcore makes it: closing one under a blocked read needs its socket."""
        if event in {"connection.connect_tcp.complete", "connection.start_tls.complete"}:
            with self._lock:
                self._streams.append(info["return_value"])
            if self._stop.is_set():
                self.hang_up()

    def _log_in(self, challenged: httpx.Response, used: str | None) -> None:
        """Get an anonymous token from the registry's own host, unless another thread just did."""
        with self._login:
            if self._token != used:
                return
            scheme, _, rest = challenged.headers.get("WWW-Authenticate", "").partition(" ")
            asked = dict(_PARAMETER.findall(rest))
            if scheme.lower() != "bearer" or "realm" not in asked:
                raise Unauthorized(f"{self._base.host} wants a login for {str(self._name)!r}", hint=_LOGIN_HINT)
            realm = httpx.URL(asked.pop("realm"))
            if (realm.scheme, realm.netloc) != (self._base.scheme, self._base.netloc):
                raise Unauthorized(
                    f"{self._base.host} sends us to {realm.host!r} for a token, which is another host",
                    hint="a token is only fetched from the registry itself",
                )
            _drain(challenged)
            params = {key: asked[key] for key in ("service", "scope") if key in asked}
            with closing(self._send(realm, {}, params=params)) as response:
                self._refuse(response, f"a token for {self._name}")
                self._token = _token(_read(response, 1 << 20))

    def _is_registry(self, url: httpx.URL) -> bool:
        return (url.scheme, url.netloc) == (self._base.scheme, self._base.netloc)

    def _url(self, what: str, reference: str) -> httpx.URL:
        return httpx.URL(f"{str(self._base).rstrip('/')}/v2/{self._name.repository}/{what}/{reference}")

    def _refuse(self, response: httpx.Response, what: str) -> None:
        """Raise what a status means; a good one passes."""
        status = response.status_code
        if response.is_success:
            return
        host = response.url.host
        said = _read(response, 4096).decode(errors="replace").strip()
        answers = f"{host} answers {status} for {what}"
        if not self._is_registry(response.url) and status in {401, 403}:
            raise ServerTrouble(f"{answers}, though the address is fresh")
        match status:
            case 401 | 403:
                raise Unauthorized(answers, hint=_LOGIN_HINT)
            case 404 | 410:
                raise NotFound(f"{host} has no {what}", hint=_not_found_hint(self._name))
            case 412:
                raise NewerOllamaNeeded(
                    f"{self._name} needs a newer Ollama: {' '.join(said.split())}",
                    hint="upgrade Ollama on the servers, then pull again",
                )
            case 429:
                raise TooManyRequests(answers, retry_after=self._retry_after(response))
            case 408 | 425 | 500 | 501 | 502 | 503 | 504:
                raise ServerTrouble(f"{answers}: {said[:200]}", retry_after=self._retry_after(response))
            case _ if status >= 500 or status < 400:
                raise ServerTrouble(f"{answers}: {said[:200]}")
            case _:
                raise Unsupported(f"{answers}: {said[:200]}")

    def _retry_after(self, response: httpx.Response) -> timedelta | None:
        """Seconds or a date, as the other side likes; nonsense counts for nothing."""
        text = response.headers.get("Retry-After", "").strip()
        if text.isdecimal():
            return timedelta(seconds=min(int(text[:9]), _LONGEST_WAIT))  # nine digits are years
        try:
            left = parsedate_to_datetime(text) - self._clock.now()
        except (ValueError, TypeError):
            return None
        return max(timedelta(0), min(left, timedelta(seconds=_LONGEST_WAIT)))


def _target(response: httpx.Response) -> httpx.URL:
    """Where a redirect leads.

    Raises:
        Unsupported: from HTTPS to something less.

    """
    target = response.url.join(response.headers["Location"])
    if response.url.scheme == "https" and target.scheme != "https":
        raise Unsupported(f"{response.url.host} redirects from https to {target.scheme}://{target.host}")
    return target


def _coming(response: httpx.Response, layer: Layer, asked: Span) -> Span:
    """Which bytes this answer brings.

    Raises:
        Corrupt: the registry's blob has another size than its manifest says.
        ServerTrouble: other bytes than were asked for.

    """
    if response.status_code == 206:
        match = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
        if match is None:
            raise ServerTrouble(f"{response.url.host} does not say which bytes of {layer.digest} it sends")
        size = layer.size if match[3] == "*" else int(match[3])
        coming = int(match[1]), int(match[2]) + 1
    else:
        size = int(response.headers.get("Content-Length", layer.size))
        coming = 0, layer.size
    if size != layer.size:
        raise Corrupt(f"{layer.digest} has {size} bytes at {response.url.host}; its manifest says {layer.size}")
    if response.status_code == 206 and coming != asked:
        raise ServerTrouble(f"{response.url.host} sends bytes {coming} of {layer.digest} where {asked} were asked for")
    return coming


def _read(response: httpx.Response, most: int) -> bytes:
    """The body's beginning: what is worth reading of an error, and never a blob by mistake."""
    raw = b""
    for chunk in response.iter_bytes():
        raw += chunk
        if len(raw) >= most:
            break
    return raw[:most]


def _drain(response: httpx.Response) -> None:
    """Read a short body to its end, so that the connection can be used again."""
    if response.headers.get("Content-Length", "").isdecimal() and int(response.headers["Content-Length"]) < 1 << 16:
        response.read()


def _token(raw: bytes) -> str:
    try:
        document = json.loads(raw)
        token = document.get("token") or document.get("access_token")
    except (ValueError, AttributeError) as error:
        raise ServerTrouble("the registry's token answer makes no sense") from error
    if not isinstance(token, str):
        raise ServerTrouble("the registry's token answer holds no token")
    return token


def _not_found_hint(name: ModelName) -> str:
    if name.host == DEFAULT_HOST and name.namespace == DEFAULT_NAMESPACE:
        return f"check the spelling, and the tags at https://ollama.com/library/{name.model}/tags"
    return f"check the name and the tag {name.tag!r}; {LOOKS_LIKE}"


def _shut(stream: Any) -> None:
    connection = stream.get_extra_info("socket")
    if connection is not None:
        with suppress(OSError):  # it was closed meanwhile
            socket.socket.shutdown(connection, socket.SHUT_RDWR)
