"""The registry protocol: one session with one registry about one repository.

A blob's address at the registry redirects to a signed one elsewhere. That one is asked for once per blob and again when
it expires, and never sees the registry's token. Retries, disks and paths are not known here.

How long an answer may take is for the caller to say, who hangs up.
"""

import hashlib
import re
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from functools import partial
from typing import Any

import httpx

from jobs.core.clock import Clock
from jobs.core.errors import (
    Corrupt,
    Misconfigured,
    NewerOllamaNeeded,
    NotFound,
    ServerTrouble,
    TooManyRequests,
    Unauthorized,
    Unsupported,
)
from jobs.core.model_name import DEFAULT_HOST, DEFAULT_NAMESPACE, NAME_FORM, ModelName
from jobs.http.errors import translated
from jobs.registry import answers
from jobs.registry.egress import Egress, shown_host
from jobs.registry.mirror import HF_TOKEN, HUGGING_FACE
from jobs.registry.range_journal import ByteRange
from jobs.registry.range_queue import DownloadStopped
from jobs.registry.servable import manifest_in
from jobs.weights.manifest import MANIFEST_TYPE, MAX_MANIFEST_BYTES, Layer, Manifest, is_digest

_HOPS = 6
"""Requests for one answer: a login, and redirects."""

_ADDRESSES = 6
"""Addresses of one blob that may be refused before a request: each one but the last was learnt by another thread."""

_PARAMETER = re.compile(r'\b(\w++)="([^"]*+)"')

_TLS_HINT = (
    "it speaks https there: take http:// from its address, or from its entry among the registries that are listed"
)

_HTTPS_WANTED = re.compile(r"HTTP request.{0,40}\bHTTPS\b", re.IGNORECASE | re.DOTALL)
"""How servers say that they were asked without TLS."""

_PROBE_SECONDS = 5.0

_ACCEPT = f"{MANIFEST_TYPE}, application/vnd.oci.image.manifest.v1+json"


class RegistrySession:
    """Knows the addresses, the token, and every connection made for it; a `jobs.registry.download.BlobSource`.

    The threads of a download ask it at once, and the thread that waits for them hangs up.
    """

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
        token: str | None = None,
    ) -> None:
        self._client = client
        self._base = base
        self._egress = egress
        self._name = name
        self._clock = clock
        self._timeout = timeout
        self._agent = agent
        self._has_own_token = token is not None
        #: The operator's until the registry wants another one. Written by the thread that holds `_login_lock`; read by
        #: all without a lock, who log in again if it is old.
        self._token = token
        self._login_lock = threading.Lock()
        #: Of each blob, where its bytes are; written by the thread that holds the blob's lock, read by all without one.
        self._addresses: dict[str, httpx.URL] = {}
        #: A lock for each blob; the dict is guarded by `_lock`.
        self._blob_locks: dict[str, threading.Lock] = {}
        #: Every connection made; each thread adds its own, `hang_up` takes all; guarded by `_lock`.
        self._streams: list[Any] = []
        self._lock = threading.Lock()
        #: Set once, by `hang_up`; read by all.
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

    def manifest(self) -> Manifest:
        url = self._url("manifests", self._name.tag)
        with self._ask(url, {"Accept": _ACCEPT}) as response:
            self._refuse(response, f"{self._name}")
            answers.need_no_encoding(response)
            raw = answers.read_at_most(response, MAX_MANIFEST_BYTES + 1)
            if len(raw) > MAX_MANIFEST_BYTES:
                raise Unsupported(f"the manifest of {str(self._name)!r} is longer than {MAX_MANIFEST_BYTES:,} bytes")
            promised = response.headers.get("Docker-Content-Digest", "")
        got = f"sha256:{hashlib.sha256(raw).hexdigest()}"
        if is_digest(promised) and promised != got:
            raise Corrupt(f"the manifest of {str(self._name)!r} has digest {got}, not {promised}")
        return manifest_in(raw, str(self._name))

    @contextmanager
    def open(self, layer: Layer, start: int, stop: int) -> Iterator[tuple[ByteRange, Iterator[bytes]]]:
        """See `jobs.registry.download.BlobSource`."""
        whole = (start, stop) == (0, layer.size)
        headers = {} if whole else {"Range": f"bytes={start}-{stop - 1}"}
        with self._ask_blob(layer, headers) as response:
            if response.status_code == 416:
                raise Corrupt(
                    f"{layer.digest} is shorter at the registry than the {layer.size} bytes its manifest says"
                )
            self._refuse(response, f"blob {layer.digest} of {self._name}")
            yield answers.announced_span(response, layer, (start, stop)), response.iter_raw()

    @contextmanager
    def _ask_blob(self, layer: Layer, headers: dict[str, str]) -> Iterator[httpx.Response]:
        """Through the address known for this blob; through the registry when there is none or it has expired."""
        refused: httpx.URL | None = None
        with self._lock:
            lock = self._blob_locks.setdefault(layer.digest, threading.Lock())
        for _ in range(_ADDRESSES):
            known = self._addresses.get(layer.digest)
            if known is not None and known != refused:
                with self._ask(known, headers) as response:
                    if response.status_code not in {401, 403, 404, 410}:
                        yield response
                        return
                refused = known
            with ExitStack() as stack:
                with lock:  # one thread asks the registry; the others wait for the address it learns
                    if self._addresses.get(layer.digest) not in (None, refused):
                        continue
                    response = stack.enter_context(self._ask(self._url("blobs", layer.digest), headers))
                    if response.is_success:
                        self._addresses[layer.digest] = response.url
                yield response
                return
        raise ServerTrouble(f"the addresses of blob {layer.digest} of {self._name} expire before they are asked")

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
                translated(f"asking {shown_host(url)} for {str(self._name)!r}"),
                closing(self._send(url, headers, token)) as got,
            ):
                if got.status_code == 401 and self._is_registry(url) and not has_logged_in:
                    self._log_in(got, token)
                    has_logged_in = True
                elif got.has_redirect_location:
                    answers.drain(got)
                    url = answers.redirect_target(got)
                    self._egress.need(url)
                else:
                    yield got
                    return
        raise ServerTrouble(f"{shown_host(self._base)} redirects in circles for {str(self._name)!r}")

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
        try:
            got = self._client.send(request, stream=True, follow_redirects=False)
        except (httpx.ReadError, httpx.RemoteProtocolError) as error:
            if url.scheme == "http" and self._is_registry(url) and self._egress.sees_peers and _speaks_tls(url):
                raise Misconfigured(f"{shown_host(url)} hangs up when it is asked over http", hint=_TLS_HINT) from error
            raise
        try:
            answers.need_one_length(got)
        except ServerTrouble:
            got.close()
            raise
        return got

    def _traced(self, url: httpx.URL, event: str, info: dict[str, Any]) -> None:
        """Remember each connection as httpcore makes it: closing one under a blocked read needs its socket.

        Whether its other end may be asked is checked here, before anything is sent there.
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
        with self._login_lock:
            if self._token != used:
                return
            scheme, _, rest = challenged.headers.get("WWW-Authenticate", "").partition(" ")
            challenge = dict(_PARAMETER.findall(rest))
            if scheme.lower() != "bearer" or "realm" not in challenge:
                words = answers.error_words(challenged)[:200]
                said = f"{shown_host(self._base)} wants a login for {str(self._name)!r}"
                raise Unauthorized(f"{said}: {words}" if words else said, hint=self._login_hint())
            realm = answers.parsed_address(challenge.pop("realm"), f"{shown_host(self._base)} sends us for a token")
            if (realm.scheme, realm.netloc) != (self._base.scheme, self._base.netloc):
                raise Unauthorized(
                    f"{shown_host(self._base)} sends us to {shown_host(realm)!r} for a token, which is another host",
                    hint="a token is only fetched from the registry itself",
                )
            answers.drain(challenged)
            params = {key: challenge[key] for key in ("service", "scope") if key in challenge}
            with closing(self._send(realm, {}, params=params)) as response:
                self._refuse(response, f"a token for {self._name}")
                answers.need_no_encoding(response)
                self._token = answers.token_in(answers.read_at_most(response, answers.MAX_TOKEN_BYTES))

    def _login_hint(self) -> str:
        if self._name.host.lower() not in HUGGING_FACE and not self._has_own_token:
            return "a private model can be pulled through an Ollama server whose key the registry knows"
        page = f"https://huggingface.co/{self._name.namespace}/{self._name.model}"
        wants = "it was sent, so see that it may read this model" if self._has_own_token else "set it to one that may"
        return f"{HF_TOKEN} is the token for private and gated models: {wants}; terms are accepted at {page}"

    def _is_registry(self, url: httpx.URL) -> bool:
        return (url.scheme, url.netloc) == (self._base.scheme, self._base.netloc)

    def _url(self, what: str, reference: str) -> httpx.URL:
        return httpx.URL(f"{str(self._base).rstrip('/')}/v2/{self._name.repository}/{what}/{reference}")

    def _refuse(self, response: httpx.Response, what: str) -> None:
        """Raise what a status means; a good one passes."""
        status = response.status_code
        if response.is_success:
            return
        host = shown_host(response.url)
        words = answers.error_words(response)
        said = f"{host} answers {status} for {what}"
        if not self._is_registry(response.url) and status in {401, 403}:
            raise ServerTrouble(f"{said}, though the address is fresh")
        match status:
            case 401 | 403:
                raise Unauthorized(f"{said}: {words[:200]}" if words else said, hint=self._login_hint())
            case 404 | 410:
                raise NotFound(f"{host} has no {what}", hint=_not_found_hint(self._name))
            case 412:
                raise NewerOllamaNeeded(
                    f"{self._name} needs a newer Ollama: {words}", hint="upgrade Ollama on the servers, then pull again"
                )
            case 429:
                raise TooManyRequests(said, retry_after=answers.retry_after(response, self._clock.now()))
            case 408 | 425 | 500 | 501 | 502 | 503 | 504:
                raise ServerTrouble(
                    f"{said}: {words[:200]}", retry_after=answers.retry_after(response, self._clock.now())
                )
            case _ if self._base.scheme == "http" and _HTTPS_WANTED.search(words):
                raise Misconfigured(f"{said}: {words[:200]}", hint=_TLS_HINT)
            case _ if status >= 500 or status < 400:
                raise ServerTrouble(f"{said}: {words[:200]}")
            case _:
                raise Unsupported(f"{said}: {words[:200]}")


def _peer(stream: Any) -> str:
    """The address at the other end; empty where it is no network's, or has left already."""
    connection = stream.get_extra_info("socket")
    try:
        peer = connection.getpeername() if connection is not None else ""
    except OSError:
        return ""
    return str(peer[0]) if isinstance(peer, tuple) else ""


def _speaks_tls(url: httpx.URL) -> bool:
    """Whether TLS is spoken where plain http was not answered; whose certificate that is does not matter here."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        with (
            socket.create_connection((url.host, url.port or 80), _PROBE_SECONDS) as made,
            context.wrap_socket(made, server_hostname=url.host),
        ):
            return True
    except (OSError, ValueError):
        return False


def _not_found_hint(name: ModelName) -> str:
    if name.host == DEFAULT_HOST and name.namespace == DEFAULT_NAMESPACE:
        return f"check the spelling, and the tags at https://ollama.com/library/{name.model}/tags"
    return f"check the name and the tag {name.tag!r}; {NAME_FORM}"


def _shut(stream: Any) -> None:
    connection = stream.get_extra_info("socket")
    if connection is not None:
        with suppress(OSError):  # it was closed meanwhile
            socket.socket.shutdown(connection, socket.SHUT_RDWR)
