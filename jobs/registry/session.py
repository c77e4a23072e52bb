"""The registry protocol: one talk with one registry about one repository.

A blob's address at the registry redirects to a signed one elsewhere. That one is asked for once per blob and again when
it expires, and never sees the registry's token. Retries, disks and paths are not known here.

Nothing that a registry answers is decoded, and all but blobs is read up to a bound in bytes. How long it may take is
for the caller to say, who hangs up.
"""

import hashlib
import re
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from datetime import timedelta
from email.utils import parsedate_to_datetime
from functools import partial
from typing import Any

import httpx

from jobs.core import foreign
from jobs.core.clock import Clock
from jobs.core.errors import (
    Corrupt,
    NewerOllamaNeeded,
    NotFound,
    ServerTrouble,
    TooManyRequests,
    Unauthorized,
    Unsupported,
)
from jobs.core.model_name import DEFAULT_HOST, DEFAULT_NAMESPACE, LOOKS_LIKE, ModelName
from jobs.core.sanitize import plain
from jobs.http.errors import translated
from jobs.registry.download import DownloadStopped
from jobs.registry.egress import Egress, flaw
from jobs.registry.range_journal import Span
from jobs.registry.servable import manifest_in
from jobs.weights.manifest import MANIFEST_TYPE, MAX_MANIFEST_BYTES, Layer, Manifest, is_digest

_HOPS = 6
"""Requests for one answer: a login, and redirects."""

_LONGEST_WAIT = 24 * 3600

_MAX_TOKEN_BYTES = 1 << 20
_MAX_WORDS_BYTES = 4_096
_MAX_DRAINED_BYTES = 1 << 16

_PARAMETER = re.compile(r'\b(\w++)="([^"]*+)"')
_TOKEN = re.compile(r"[\x21-\x7e]{1,65536}")
_LENGTH = re.compile(r"[0-9]{1,19}")
_CONTENT_RANGE = re.compile(r"bytes (\d{1,20})-(\d{1,20})/(\d{1,20}|\*)")

_LOGIN_HINT = "a private model can be pulled through an Ollama server whose key the registry knows"

_ACCEPT = f"{MANIFEST_TYPE}, application/vnd.oci.image.manifest.v1+json"


class RegistrySession:
    """Knows the addresses, the token, and every connection made for it; a `jobs.registry.download.Source`."""

    def __init__(
        self,
        client: httpx.Client,
        base: httpx.URL,
        name: ModelName,
        *,
        clock: Clock,
        timeout: httpx.Timeout,
        agent: str,
        egress: Egress,
    ) -> None:
        self._client = client
        self._base = base
        self._egress = egress
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
            raise DownloadStopped

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
            _need_no_encoding(response)
            raw = _read(response, MAX_MANIFEST_BYTES + 1)
            if len(raw) > MAX_MANIFEST_BYTES:
                raise Unsupported(f"the manifest of {str(self._name)!r} is longer than {MAX_MANIFEST_BYTES:,} bytes")
            promised = response.headers.get("Docker-Content-Digest", "")
        got = f"sha256:{hashlib.sha256(raw).hexdigest()}"
        for wanted in (promised, reference):
            if is_digest(wanted) and wanted != got:
                raise Corrupt(f"the manifest of {str(self._name)!r} has digest {got}, not {wanted}")
        return manifest_in(raw, str(self._name))

    @contextmanager
    def open(self, layer: Layer, start: int, stop: int) -> Iterator[tuple[Span, Iterator[bytes]]]:
        """See `jobs.registry.download.Source`."""
        whole = (start, stop) == (0, layer.size)
        headers = {} if whole else {"Range": f"bytes={start}-{stop - 1}"}
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

        Redirects are followed here and not by httpx, so that the token goes to the registry alone, never from HTTPS to
        plain HTTP, and only where `egress` lets us.
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
                    self._egress.need(url)
                else:
                    yield got
                    return
        raise ServerTrouble(f"{self._base.host} redirects in circles for {str(self._name)!r}")

    def _send(
        self, url: httpx.URL, headers: dict[str, str], token: str | None = None, params: dict[str, str] | None = None
    ) -> httpx.Response:
        if self._stop.is_set():
            raise DownloadStopped
        own = {"User-Agent": self._agent, "Accept-Encoding": "identity"} | (
            {"Authorization": f"Bearer {token}"} if token else {}
        )
        request = self._client.build_request(
            "GET",
            url,
            params=params,
            headers=headers | own,
            timeout=self._timeout,
            extensions={"trace": partial(self._traced, url)},
        )
        got = self._client.send(request, stream=True, follow_redirects=False)
        try:
            _need_one_length(got)
        except ServerTrouble:
            got.close()
            raise
        return got

    def _traced(self, url: httpx.URL, event: str, info: dict[str, Any]) -> None:
        """Remember each connection as httpcore makes it: closing one under a blocked read needs its socket.

        Who is at its other end is looked at here, before anything is sent there.
        """
        if event not in {"connection.connect_tcp.complete", "connection.start_tls.complete"}:
            return
        stream = info["return_value"]
        with self._lock:
            self._streams.append(stream)
        if event == "connection.connect_tcp.complete" and (address := _peer(stream)):
            try:
                self._egress.need_peer(url, address)
            except Unsupported:
                stream.close()
                raise
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
            realm = _address(asked.pop("realm"), f"{self._base.host} sends us for a token")
            if (realm.scheme, realm.netloc) != (self._base.scheme, self._base.netloc):
                raise Unauthorized(
                    f"{self._base.host} sends us to {realm.host!r} for a token, which is another host",
                    hint="a token is only fetched from the registry itself",
                )
            _drain(challenged)
            params = {key: asked[key] for key in ("service", "scope") if key in asked}
            with closing(self._send(realm, {}, params=params)) as response:
                self._refuse(response, f"a token for {self._name}")
                _need_no_encoding(response)
                self._token = _token(_read(response, _MAX_TOKEN_BYTES))

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
        said = _words(response)
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
                    f"{self._name} needs a newer Ollama: {said}",
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
        if text.isascii() and text.isdecimal():
            return timedelta(seconds=min(int(text[:9]), _LONGEST_WAIT))  # nine digits are years
        try:
            left = parsedate_to_datetime(text[:64]) - self._clock.now()
        except (ValueError, TypeError, OverflowError, IndexError):
            return None
        return max(timedelta(0), min(left, timedelta(seconds=_LONGEST_WAIT)))


def _target(response: httpx.Response) -> httpx.URL:
    """Where a redirect leads.

    Raises:
        Unsupported: from HTTPS to something less.
        ServerTrouble: nowhere.

    """
    target = _address(response.headers["Location"], f"{response.url.host} redirects us", response.url)
    if response.url.scheme == "https" and target.scheme != "https":
        raise Unsupported(f"{response.url.host} redirects from https to {target.scheme}://{target.host}")
    return target


def _address(text: str, who: str, base: httpx.URL | None = None) -> httpx.URL:
    """The address that a header names.

    Raises:
        ServerTrouble: it is none.

    """
    try:
        url = base.join(text) if base else httpx.URL(text)
        why = flaw(url)
    except (httpx.InvalidURL, ValueError) as error:
        raise ServerTrouble(f"{who} to what is no address: {plain(error)[:200]}") from error
    if why:
        raise ServerTrouble(f"{who} to {plain(text)[:200]!r}, which is no address: {why}")
    return url


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
        size = int(
            response.headers.get("Content-Length", layer.size)
        )  # one number, or `_need_one_length` had refused it
        coming = 0, layer.size
    if size != layer.size:
        raise Corrupt(f"{layer.digest} has {size} bytes at {response.url.host}; its manifest says {layer.size}")
    if response.status_code == 206 and coming != asked:
        raise ServerTrouble(f"{response.url.host} sends bytes {coming} of {layer.digest} where {asked} were asked for")
    return coming


def _read(response: httpx.Response, most: int) -> bytes:
    """The body's beginning as it came over the wire, `most` bytes and no piece more."""
    raw = bytearray()
    for chunk in response.iter_raw():
        raw += chunk
        if len(raw) >= most:
            break
    return bytes(raw[:most])


def _words(response: httpx.Response) -> str:
    """What a person may read of an error; an encoded one has no words."""
    return "" if _encoding(response) else plain(_read(response, _MAX_WORDS_BYTES).decode(errors="replace"))


def _drain(response: httpx.Response) -> None:
    """Read a short body to its end, so that the connection can be used again."""
    length = response.headers.get("Content-Length", "")
    if _LENGTH.fullmatch(length) and int(length) < _MAX_DRAINED_BYTES:
        for _ in response.iter_raw():
            pass


def _encoding(response: httpx.Response) -> str:
    named: str = response.headers.get("Content-Encoding", "").strip().lower()
    return "" if named == "identity" else named


def _need_no_encoding(response: httpx.Response) -> None:
    """Insist on the bytes themselves, as they were asked for: a few that are encoded may stand for any number."""
    if named := _encoding(response):
        raise Unsupported(f"{response.url.host} answers encoded as {plain(named)[:80]!r}, which was not asked for")


def _need_one_length(response: httpx.Response) -> None:
    length = response.headers.get("Content-Length")
    if length is not None and not _LENGTH.fullmatch(length):
        raise ServerTrouble(f"{response.url.host} answers with {plain(length)[:80]!r} for a length")


def _peer(stream: Any) -> str:
    """The address at the other end; empty where it is no network's, or has left already."""
    connection = stream.get_extra_info("socket")
    try:
        peer = connection.getpeername() if connection is not None else ""
    except OSError:
        return ""
    return str(peer[0]) if isinstance(peer, tuple) else ""


def _token(raw: bytes) -> str:
    try:
        document = foreign.document(raw, "the registry's token answer")
    except Corrupt as error:
        raise ServerTrouble(str(error)) from error
    token = (document.get("token") or document.get("access_token")) if isinstance(document, dict) else None
    if not isinstance(token, str) or not _TOKEN.fullmatch(token):
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
