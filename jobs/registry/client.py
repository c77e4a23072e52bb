"""Every model registry, for the rest of the code: a name's manifest, and its blobs brought to disk.

registry.ollama.ai, hf.co and any OCI registry are asked in the same way. How they are spoken to is in `session`, how
bytes reach the disk in `download`; here stand the numbers. Where models are kept is not known here: paths are handed
in.
"""

import ssl
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from functools import cached_property
from http.cookiejar import CookieJar, DefaultCookiePolicy
from pathlib import Path
from urllib.request import getproxies

import httpx

from jobs.core.clock import Clock, SystemClock
from jobs.core.errors import BadName, Stalled
from jobs.core.model_name import NAME_FORM, ModelName
from jobs.core.progress import Progress
from jobs.core.retry import RANGES, REQUESTS, Policy
from jobs.http.errors import LOOPBACK_IS_DIRECT
from jobs.registry.allowlist import ANYWHERE, Registries
from jobs.registry.bulk_transport import Bulk
from jobs.registry.download import Fetch, attend
from jobs.registry.egress import Egress, flaw
from jobs.registry.session import RegistrySession
from jobs.weights.manifest import Layer, Manifest

CONNECTIONS = 8
"""Enough to fill a fast line from a CDN that limits each connection; more only contend for the interpreter."""

RANGE_BYTES = 16 * 1024 * 1024
"""What a SIGKILL may cost each connection. Smaller ranges spend their time on round trips."""

STALL = timedelta(seconds=60)

_READ = timedelta(seconds=15)
"""A connection silent for this long is dropped and its range asked for again, well before the whole fetch stalls."""

_CONNECT = timedelta(seconds=10)

MANIFEST_WITHIN = timedelta(seconds=60)
"""For a manifest with all that it takes: logins, redirects, tries. What comes in drops would come for ever."""

USER_AGENT = "ollama/0.32.15 (amd64 linux) ollama-modal"
"""The registry refuses models that are newer than the Ollama it reads here."""


class Registry:
    """Every registry, by the host in the model's name.

    Args:
        client: for tests: all requests go through it, and it stays open.
        mirrors: a base URL to use instead, by host: `{"registry.ollama.ai": "http://127.0.0.1:5000"}`.
            The one of `*` stands for every host that is not named.
        tokens: the operator's own, by host in a model's name. Each is sent to that host alone, over https alone; a
            mirror in its place gets none.
        registries: those that may be asked, and those to speak plain HTTP to, beside loopback and mirrors that say so.
        stall: no byte for this long ends a fetch.
        policy: for one range of a blob.
        requests: for one short request.

    """

    def __init__(
        self,
        *,
        client: httpx.Client | None = None,
        mirrors: Mapping[str, str] | None = None,
        tokens: Mapping[str, str] | None = None,
        registries: Registries = ANYWHERE,
        connections: int = CONNECTIONS,
        range_bytes: int = RANGE_BYTES,
        stall: timedelta = STALL,
        policy: Policy = RANGES,
        requests: Policy = REQUESTS,
        clock: Clock | None = None,
    ) -> None:
        self._client = client
        self._mirrors = dict(mirrors or {})
        self._tokens = dict(tokens or {})
        self._registries = registries
        self._connections = connections
        self._range_bytes = range_bytes
        self._stall = stall
        self._policy = policy
        self._requests = requests
        self._clock = clock or SystemClock()

    def need(self, name: ModelName) -> None:
        """Insist that this model may be pulled; every request of ours insists on it, too.

        Raises:
            Unlisted: not from there.

        """
        self._registries.need(name)

    def is_plain(self, name: ModelName) -> bool:
        """Whether this model's registry is asked over http."""
        return self._registries.is_plain(name)

    def manifest(self, name: ModelName, *, check: Callable[[], None] = lambda: None) -> Manifest:
        """The manifest of a model.

        Raises:
            NotFound: no such model or tag.
            Unauthorized, NewerOllamaNeeded, Unsupported, Corrupt, NetworkTrouble: as they say.

        """
        latest = self._clock.monotonic() + MANIFEST_WITHIN.total_seconds()

        def checked() -> None:
            check()
            if self._clock.monotonic() > latest:
                within = f"{MANIFEST_WITHIN.total_seconds():.0f} s"
                raise Stalled(f"the manifest of {str(name)!r} did not come in whole within {within}")

        with self._session(name) as session, ThreadPoolExecutor(1) as pool:
            answer = pool.submit(self._requests.call, session.manifest, sleep=session.sleep)
            attend([answer], check=checked, hang_up=session.hang_up)
            return answer.result()

    def fetch_all(
        self,
        name: ModelName,
        layers: Sequence[Layer],
        staged: Callable[[Layer], Path],
        *,
        progress: Progress,
        check: Callable[[], None] = lambda: None,
        limit: int | None = None,
        verified: Callable[[Layer], None] = lambda _: None,
    ) -> None:
        """Bring blobs to disk, resuming what is there, each hashed in full when this returns.

        Args:
            name: whose repository holds them.
            layers: each digest once, in the order to fetch.
            staged: the file for a blob; a journal named `<file>.ranges` lies beside it.
            progress: told every byte, those found on disk included; its total is the caller's.
            check: asked ten times a second from this thread; what it raises ends the fetch within a moment.
            limit: bytes per second.
            verified: told each blob whose digest matched, from another thread.

        """
        with self._session(name) as session:
            Fetch(
                session,
                layers,
                staged,
                progress=progress,
                clock=self._clock,
                policy=self._policy,
                stall=self._stall,
                connections=self._connections,
                range_bytes=self._range_bytes,
                limit=limit,
                verified=verified,
            ).run(check)

    @contextmanager
    def _session(self, name: ModelName) -> Iterator[RegistrySession]:
        self.need(name)
        base = self._base(name)
        with ExitStack() as stack:
            client = self._client or stack.enter_context(self._new_client())
            yield RegistrySession(
                client,
                base,
                name,
                clock=self._clock,
                timeout=self._timeout(),
                agent=USER_AGENT,
                token=self._token_for(name, base),
                egress=Egress(base, self._registries, sees_peers=bool(self._client) or not getproxies()),
            )

    def _new_client(self) -> httpx.Client:
        """One that spends little on each byte; behind a proxy httpx's own, which knows how to go through one."""
        cookies = CookieJar(DefaultCookiePolicy(allowed_domains=[]))  # a registry could fill a jar, answer by answer
        if getproxies():
            limits = httpx.Limits(max_connections=None, max_keepalive_connections=2 * self._connections)
            return httpx.Client(verify=self._certificates, limits=limits, mounts=LOOPBACK_IS_DIRECT, cookies=cookies)
        return httpx.Client(transport=Bulk(self._certificates), cookies=cookies)

    @cached_property
    def _certificates(self) -> ssl.SSLContext:
        """Reading them takes a twentieth of a second; once is enough, and a client that was handed in has its own."""
        return httpx.create_ssl_context()

    def _base(self, name: ModelName) -> httpx.URL:
        mirror = self._mirrors.get(name.host) or self._mirrors.get("*")
        scheme = "http" if self._registries.is_plain(name) else "https"
        try:
            base = httpx.URL(mirror or f"{scheme}://{name.host}")
            if why := flaw(base):  # which decodes the host
                raise httpx.InvalidURL(why)  # noqa: TRY301 - told like the others
        except (httpx.InvalidURL, ValueError) as error:  # the grammar allows more than there are addresses
            raise BadName(f"{str(name)!r} names no registry: {error}", hint=NAME_FORM) from error
        return base

    def _token_for(self, name: ModelName, base: httpx.URL) -> str | None:
        """The operator's, where it is the very host that he has it for, and nobody can read along."""
        is_that_host = base.scheme == "https" and base.netloc.decode("ascii").lower() == name.host.lower()
        return self._tokens.get(name.host.lower()) if is_that_host else None

    def _timeout(self) -> httpx.Timeout:
        read = min(self._stall / 4, _READ).total_seconds()  # several tries fit into one stall
        return httpx.Timeout(read, connect=min(self._stall, _CONNECT).total_seconds())
