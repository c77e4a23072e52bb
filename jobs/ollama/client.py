"""HTTP client of one Ollama server: what it has, what it runs, pull through it, load, ask.

Short requests are retried in seconds by the policy handed in; whatever moves weights or tokens is one try, watched,
and retried by the ledger. Every error is one of ours, with the server's own words in it.
"""

import ssl
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing
from datetime import timedelta
from functools import cache
from typing import Any, Self

import httpx

from jobs.core import foreign
from jobs.core.clock import Clock, SystemClock
from jobs.core.errors import Corrupt, CutShort, ServerTrouble, Stalled, Unsupported
from jobs.core.model_name import ModelName
from jobs.core.progress import Progress
from jobs.core.retry import REQUESTS, Policy
from jobs.http.errors import LOOPBACK_IS_DIRECT, as_it_is, translated
from jobs.http.watched_stream import Head, exchange
from jobs.ollama.errors import refusal
from jobs.ollama.pull_progress import PullWatch
from jobs.ollama.responses import ChatFrame, Frame, Listed, Running, listed_in

STALL = timedelta(seconds=60)
"""Twice the 30 s after which Ollama itself gives up a silent connection and asks again."""

VERIFY_BUDGET = timedelta(minutes=30)
"""For re-reading new blobs: 40 GB in one thread at 25 MB/s, a bad day of a network volume."""

PATIENCE = timedelta(minutes=15)
"""For a load or an answer that says nothing yet: above Ollama's own OLLAMA_LOAD_TIMEOUT, which is about stalls too."""

FOREVER = timedelta(seconds=-1)
"""`keep_alive` that never ends: Ollama takes any negative duration for it."""

MAX_ANSWER_BYTES = 32 << 20
"""Of a short answer: a list of a thousand models has 0.5 MB."""

MOST_VALUES = 4_000_000
"""In one frame or answer: the numbers of a thousand vectors."""

_CONNECT_SECONDS = 10.0

MAX_WORDS_BYTES = 64 << 10
"""Of an error's text."""

_AS_IT_IS = {"Accept-Encoding": "identity"}


def _nothing() -> None:
    pass


@cache
def _tls(scheme: str) -> ssl.SSLContext:
    """Reading the trusted certificates takes a tenth of a second; once is enough, and never where no TLS is spoken."""
    return httpx.create_ssl_context() if scheme == "https" else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


def _client(url: str, **limits: int) -> httpx.Client:
    tls = _tls(url.partition("://")[0].lower())
    return httpx.Client(verify=tls, limits=httpx.Limits(**limits), mounts=LOOPBACK_IS_DIRECT)


class OllamaClient:
    """One server at `url`.

    Args:
        url: its base address, without a path.
        client: sends everything, when handed in; it is then the caller's to close.
        policy: how short requests are retried.
        clock: for waits and silences.
        stall: how long nothing may move while a pull fetches, or a short request is silent.
        verify_budget: how long a pull may be silent once it verifies.

    """

    def __init__(
        self,
        url: str,
        *,
        client: httpx.Client | None = None,
        policy: Policy = REQUESTS,
        clock: Clock | None = None,
        stall: timedelta = STALL,
        verify_budget: timedelta = VERIFY_BUDGET,
    ) -> None:
        self.url = url.rstrip("/")
        self._policy = policy
        self._clock = clock or SystemClock()
        self._stall = stall
        self._verify_budget = verify_budget
        #: httpx clients, which any number of threads may use at once; only those that are ours are closed.
        self._own = [] if client else [_client(url), _client(url, max_keepalive_connections=0)]
        self._client, self._watched = (client, client) if client else self._own

    def close(self) -> None:
        for client in self._own:
            client.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # What it has and runs

    def version(self) -> str:
        """Its version. An answer means that it is ready: Ollama accepts connections long before."""
        return str(_object(self._ask("GET", "/api/version", doing="asking for the version")).get("version", ""))

    def tags(self) -> list[Listed]:
        """The models on its disk, newest first."""
        return [Listed.of(each) for each in listed_in(self._ask("GET", "/api/tags", doing="listing models"))]

    def ps(self) -> list[Running]:
        """The models in its memory; one that is loading is not among them."""
        return [Running.of(each) for each in listed_in(self._ask("GET", "/api/ps", doing="listing running models"))]

    def running(self, name: str) -> Running | None:
        """The model in memory under this name, whatever its spelling."""
        wanted = ModelName.parse(name)
        return next((each for each in self.ps() if wanted.is_called(each.name)), None)

    def capabilities(self, name: str) -> tuple[str, ...]:
        """What the model can do, in Ollama's words; empty from a server that does not say."""
        shown = _object(self._ask("POST", "/api/show", {"model": name}, doing=f"asking about {name!r}"))
        return foreign.texts(shown.get("capabilities"))

    def delete(self, name: str) -> None:
        """Remove the model and every blob that no other manifest on that server lists."""
        self._send("DELETE", "/api/delete", {"model": name}, doing=f"deleting {name!r}")

    # Work that takes long

    def pull(
        self, name: str, *, progress: Progress, check: Callable[[], None] = _nothing, insecure: bool = False
    ) -> None:
        """Have the server pull a model; it answers success, or this raises.

        Two pulls of one server that share a blob can crash it (ollama server/download.go:442), so the caller lets only
        one run. What leaves early makes the server keep the parts it has.

        Args:
            name: as the server shall know it.
            progress: moved over all layers together.
            check: called with every frame and while none comes; may raise to stop.
            insecure: the registry speaks plain http.

        """
        doing = f"pulling {name!r} through {self.url}"
        watch = PullWatch(doing, progress, stall=self._stall, verify_budget=self._verify_budget)

        def idle() -> None:
            check()
            watch.require_movement()

        body = {"model": name, "stream": True} | ({"insecure": True} if insecure else {})
        with closing(self._frames("/api/pull", body, doing=doing, idle=idle)) as frames:
            for frame in frames:
                check()
                watch.take(frame)
                if watch.succeeded:
                    return
        raise watch.cut_short()

    def load(
        self,
        name: str,
        *,
        options: Mapping[str, Any] | None = None,
        keep_alive: timedelta | None = None,
        check: Callable[[], None] = _nothing,
        patience: timedelta = PATIENCE,
    ) -> None:
        """Have the model in memory. The server drops a load when its caller leaves, so this stays until the end."""
        body = {"model": name, "stream": False} | _options(options) | _keep_alive(keep_alive)
        doing = f"loading {name!r} on {self.url}"

        def ask(path: str, body: Mapping[str, Any]) -> None:
            if not list(self._patient(path, body, doing=doing, check=check, patience=patience)):
                raise CutShort(f"{doing}: the answer is empty")

        try:
            ask("/api/generate", body)
        except Unsupported:  # it only embeds
            ask("/api/embed", body | {"input": []})

    def unload(self, name: str) -> None:
        """Have the model out of memory; it is no error when it was not in."""
        self._ask("POST", "/api/generate", {"model": name, "keep_alive": 0}, doing=f"unloading {name!r}")

    def generate(
        self,
        name: str,
        prompt: str,
        *,
        options: Mapping[str, Any] | None = None,
        keep_alive: timedelta | None = None,
        check: Callable[[], None] = _nothing,
        patience: timedelta = PATIENCE,
    ) -> Iterator[Frame]:
        """Continue a prompt. The iterator ends after the frame that says done, or raises CutShort."""
        body = {"model": name, "prompt": prompt} | _options(options) | _keep_alive(keep_alive)
        doing = f"generating with {name!r} on {self.url}"
        with closing(self._patient("/api/generate", body, doing=doing, check=check, patience=patience)) as frames:
            for wire in frames:
                frame = Frame.of(wire)
                yield frame
                if frame.done:
                    return
        raise CutShort(f"{doing}: the stream ended before it said done")

    def chat(
        self,
        name: str,
        messages: Sequence[Mapping[str, str]],
        *,
        more: Mapping[str, Any] | None = None,
        check: Callable[[], None] = _nothing,
        patience: timedelta = PATIENCE,
    ) -> Iterator[ChatFrame]:
        """Answer the last of these messages. The iterator ends after the frame that says done, or raises CutShort.

        Args:
            name: of the model.
            messages: with `role` and `content`.
            more: fields of the request: `format`, `think`, `options`.
            check: called with every frame and while none comes; may raise to stop.
            patience: how long it may say nothing.

        """
        doing = f"chatting with {name!r} on {self.url}"
        body = {"model": name, "messages": list(messages), "stream": True, **(more or {})}
        with closing(self._patient("/api/chat", body, doing=doing, check=check, patience=patience)) as answers:
            for wire in answers:
                frame = ChatFrame.of(wire)
                yield frame
                if frame.done:
                    return
        raise CutShort(f"{doing}: the stream ended before it said done")

    def embed(
        self,
        name: str,
        text: str,
        *,
        options: Mapping[str, Any] | None = None,
        keep_alive: timedelta | None = None,
        check: Callable[[], None] = _nothing,
        patience: timedelta = PATIENCE,
    ) -> int:
        """Have a text embedded; the length of its vector.

        Raises:
            ServerTrouble: the answer holds no vector.

        """
        body = {"model": name, "input": text} | _options(options) | _keep_alive(keep_alive)
        doing = f"embedding with {name!r} on {self.url}"
        answers = list(self._patient("/api/embed", body, doing=doing, check=check, patience=patience))
        vectors = answers[0].get("embeddings") if answers else None
        if not isinstance(vectors, list) or not vectors or not isinstance(vectors[0], list) or not vectors[0]:
            raise ServerTrouble(f"{doing}: the answer holds no vector")
        return len(vectors[0])

    # How it is asked

    def _ask(self, method: str, path: str, body: Any = None, *, doing: str) -> Any:
        """A short request that may safely be sent twice, and its JSON."""
        answer = self._policy.call(lambda: self._send(method, path, body, doing=doing), sleep=self._clock.wait)
        try:
            return foreign.document(answer, "the answer", most_pieces=MOST_VALUES)
        except Corrupt as error:
            raise ServerTrouble(f"{doing} on {self.url}: {error}: {answer[:80]!r}") from error

    def _send(self, method: str, path: str, body: Any, *, doing: str) -> bytes:
        """The body of a good answer, which has to come within the time for a silence, and no more than makes sense."""
        where = f"{doing} on {self.url}"
        timeout = httpx.Timeout(self._stall.total_seconds(), connect=_CONNECT_SECONDS)
        whole = self._stall.total_seconds() + _CONNECT_SECONDS
        latest = self._clock.monotonic() + whole
        request: dict[str, Any] = {"json": body, "timeout": timeout, "headers": _AS_IT_IS}
        with translated(where), self._client.stream(method, self.url + path, **request) as answer:
            raw = bytearray()
            for chunk in as_it_is(answer):
                raw += chunk
                if len(raw) > MAX_ANSWER_BYTES:
                    raise ServerTrouble(f"{where}: the answer has more than {MAX_ANSWER_BYTES:,} bytes")
                if self._clock.monotonic() > latest:
                    raise Stalled(f"{where}: the answer did not come in whole within {whole:.0f} s")
        if answer.status_code != 200:
            raise _refused(answer.status_code, answer.headers, raw.decode(errors="replace"), where)
        return bytes(raw)

    def _frames(
        self, path: str, body: Any, *, doing: str, idle: Callable[[], None], silence: timedelta | None = None
    ) -> Generator[Mapping[str, Any], None, None]:
        """The JSON objects of an answer, one a line; an error status raises."""
        longest = silence or max(self._stall, self._verify_budget)
        timeout = httpx.Timeout(longest.total_seconds() + 60, connect=_CONNECT_SECONDS)
        with translated(doing):
            request = self._watched.build_request(
                "POST", self.url + path, json=body, timeout=timeout, headers=_AS_IT_IS
            )
        with exchange(self._watched, request, doing=doing, idle=idle) as events:
            head = next(events)
            assert isinstance(head, Head)
            if head.status != 200:
                raise _refused(head.status, head.headers, _words(events), doing)
            for line in events:
                if isinstance(line, bytes) and line.strip():
                    yield _parsed(line, doing)

    def _patient(
        self, path: str, body: Any, *, doing: str, check: Callable[[], None], patience: timedelta
    ) -> Generator[Mapping[str, Any], None, None]:
        """Frames of an answer, checked with each and while none comes; silence beyond `patience` is Stalled."""
        heard_at = self._clock.monotonic()

        def idle() -> None:
            check()
            if self._clock.monotonic() - heard_at > patience.total_seconds():
                raise Stalled(f"{doing}: not a word for {patience.total_seconds():.0f} s")

        with closing(self._frames(path, body, doing=doing, idle=idle, silence=patience)) as frames:
            for frame in frames:
                heard_at = self._clock.monotonic()
                check()
                if "error" in frame:
                    raise refusal(500, str(frame["error"]), doing=doing)
                yield frame


def _words(events: Iterator[Head | bytes]) -> str:
    """What a server says of an error, up to more than anybody would read."""
    words = bytearray()
    for line in events:
        words += line + b"\n" if isinstance(line, bytes) else b""
        if len(words) > MAX_WORDS_BYTES:
            break
    return words[:MAX_WORDS_BYTES].decode(errors="replace").removesuffix("\n")


def _refused(status: int, headers: Mapping[str, str], text: str, doing: str) -> Exception:
    try:
        document = foreign.document(text.encode(errors="replace"), "the answer")
    except Corrupt:
        document = text
    words = document.get("error", text) if isinstance(document, dict) else text
    return refusal(status, str(words), doing=doing, retry_after=headers.get("retry-after"))


def _parsed(line: bytes, doing: str) -> Mapping[str, Any]:
    try:
        return _object(foreign.document(line, "a frame", most_pieces=MOST_VALUES))
    except Corrupt as error:
        raise CutShort(f"{doing}: the answer broke off inside a frame: {line[-60:]!r}") from error


def _object(document: Any) -> Mapping[str, Any]:
    if not isinstance(document, dict):
        raise ServerTrouble(f"the answer is {type(document).__name__}, not an object")
    return document


def _options(options: Mapping[str, Any] | None) -> dict[str, Any]:
    return {"options": dict(options)} if options else {}


def _keep_alive(duration: timedelta | None) -> dict[str, Any]:
    """A number counts as seconds on the wire; a string without a unit would be refused."""
    return {} if duration is None else {"keep_alive": duration.total_seconds()}
