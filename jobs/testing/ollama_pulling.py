"""How the simulator pulls: the frames, files and traps of ollama's server/download.go and images.go.

One download per blob and process, shared by whoever waits for it; parts with a JSON file each; a partial file of full
size from the first byte; no check of what is on disk already.
"""

import hashlib
import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx

from jobs.names import DEFAULT_HOST, ModelName
from jobs.testing.models import MANIFEST_TYPE, SCALE
from jobs.testing.ollama_faults import ENOSPC, MISMATCH, Fault, Kind, SimError
from jobs.testing.ollama_store import Store, os_text

FRAME_SECONDS = 0.06
SMALLEST_PART = 100_000_000 // SCALE
LARGEST_PART = 1_000_000_000 // SCALE
PARTS = 16
TRIES = 6

Frame = dict[str, Any]


@dataclass(frozen=True)
class Upstream:
    """The registry of one model.

    `base` is where requests go, `host` what the model's name says: a redirect within that host is followed, and then
    the server finds no address to fetch parts from, as the real one does.
    """

    base: str
    host: str
    client: httpx.Client
    user_agent: str

    def ask(self, method: str, path: str, **headers: str) -> httpx.Response:
        url = f"{self.base}{path}"
        try:
            answer = self.client.request(
                method,
                url,
                headers={"User-Agent": self.user_agent, **headers},
                follow_redirects=method == "HEAD",
            )
        except httpx.HTTPError as error:
            raise SimError(f'{method.capitalize()} "{url}": {_go_words(error, url)}') from error
        if answer.status_code == 401:
            raise SimError("unauthorized: access denied")
        if answer.status_code == 404:
            raise SimError("file does not exist")
        if answer.status_code >= 400:
            raise SimError(f"{answer.status_code}: {answer.text}")
        return answer


def _go_words(error: httpx.HTTPError, url: str) -> str:
    host = urlsplit(url).hostname
    if isinstance(error, httpx.ConnectError):
        if "Name or service" in str(error) or "name resolution" in str(error):
            return f"dial tcp: lookup {host}: no such host"
        return f"dial tcp {urlsplit(url).netloc}: connect: connection refused"
    return "context deadline exceeded" if isinstance(error, httpx.TimeoutException) else "EOF"


class Download(threading.Thread):
    """One blob on its way; the last one who stops waiting for it cancels it."""

    def __init__(self, store: Store, upstream: Upstream, repository: str, digest: str, pause: float) -> None:
        super().__init__(name=f"pulling {digest[7:19]}", daemon=True)
        self.total = 0
        self.error: SimError | None = None
        self.waiters = 0
        self._target = store.blob(digest)
        self._path = f"/v2/{repository}/blobs/{digest}"
        self._upstream = upstream
        self._pause = pause
        self._parts: list[Part] = []
        self._cancelled = threading.Event()

    @property
    def completed(self) -> int:
        return sum(part.completed for part in self._parts)

    def prepare(self) -> None:
        """Take up the parts of an earlier pull, or cut new ones; a part file that cannot be read is the error."""
        found = sorted(self._target.parent.glob(f"{self._target.name}-partial-*"))
        for path in found:
            self._parts.append(Part.read(path))
        if not found:
            self.total = int(self._upstream.ask("HEAD", self._path).headers.get("Content-Length", "0"))
            size = min(max(self.total // PARTS, SMALLEST_PART), LARGEST_PART)
            for n, offset in enumerate(range(0, self.total, size)):
                part = Part(Path(f"{self._target}-partial-{n}"), n, offset, min(size, self.total - offset))
                part.write()
                self._parts.append(part)
        self.total = sum(part.size for part in self._parts)

    def cancel(self) -> None:
        self._cancelled.set()

    def run(self) -> None:
        try:
            self._run()
        except SimError as error:
            self.error = error
        except OSError as error:
            self.error = SimError(os_text(error, "open"))

    def _run(self) -> None:
        partial = Path(f"{self._target}-partial")
        with partial.open("r+b" if partial.exists() else "w+b") as file:
            file.truncate(self.total)
        url = self._direct_url()
        open_parts = [part for part in self._parts if part.completed < part.size]
        with ThreadPoolExecutor(PARTS) as pool:
            for future in [pool.submit(self._fetch, url, partial, part) for part in open_parts]:
                future.result()
        for part in self._parts:
            self._remove(part.path)
        partial.rename(self._target)

    def _direct_url(self) -> str:
        answer = self._upstream.ask("GET", self._path)
        location = answer.headers.get("Location")
        if location is None or urlsplit(location).hostname == self._upstream.host:
            raise SimError("http: no Location header in response")
        return str(location)

    def _remove(self, path: Path) -> None:
        try:
            path.unlink()
        except FileNotFoundError as error:  # two processes on one store: the other one was faster
            raise SimError(f"remove {path}: no such file or directory") from error

    def _fetch(self, url: str, partial: Path, part: "Part") -> None:
        """Six tries with doubling pauses; the count does not start anew when bytes came."""
        last = "EOF"
        for attempt in range(TRIES):
            try:
                last = self._try(url, partial, part)
            except httpx.HTTPError as error:
                last = _go_words(error, url) if isinstance(error, httpx.ConnectError) else "unexpected EOF"
                part.write()
            if self._cancelled.is_set():
                part.write()
                raise SimError("context canceled")
            if not last:
                return
            self._cancelled.wait(self._pause * 2**attempt)
        raise SimError(f"max retries exceeded: {last}")

    def _try(self, url: str, partial: Path, part: "Part") -> str:
        """One GET; nothing when the part is whole. The status is not looked at: a short answer is an EOF."""
        before, wanted = part.completed, part.size - part.completed
        first, last = part.offset + before, part.offset + part.size - 1
        with (
            partial.open("r+b") as file,
            self._upstream.client.stream("GET", url, headers={"Range": f"bytes={first}-{last}"}) as answer,
        ):
            file.seek(first)
            for chunk in answer.iter_raw():
                taken = chunk[: part.size - part.completed]
                file.write(taken)
                part.completed += len(taken)
                if self._cancelled.is_set():
                    return "context canceled"
        if part.completed - before < wanted:
            part.completed = before  # rolled back: `completed` goes down
            return "EOF"
        part.write()
        return ""


@dataclass
class Part:
    """A piece of a blob and its file on disk."""

    path: Path
    n: int
    offset: int
    size: int
    completed: int = 0

    @classmethod
    def read(cls, path: Path) -> "Part":
        raw = path.read_bytes()
        try:
            found = json.loads(raw)
            return cls(path, found["N"], found["Offset"], found["Size"], found["Completed"])
        except (ValueError, KeyError) as error:
            raise SimError("EOF" if not raw.strip() else "unexpected EOF") from error

    def write(self) -> None:
        record = {"N": self.n, "Offset": self.offset, "Size": self.size, "Completed": self.completed}
        self.path.write_text(json.dumps(record, separators=(",", ":")) + "\n")


class Puller:
    """All pulls of one server.

    Args:
        store: where to.
        mirror: stands for the default registry.
        version: told to registries.
        pause: seconds before a part's second try; doubles with each.
        frame_seconds: how often a waiting pull tells where it is.

    """

    def __init__(
        self,
        store: Store,
        *,
        mirror: str | None,
        version: str,
        pause: float = 1.0,
        frame_seconds: float = FRAME_SECONDS,
    ) -> None:
        self._store = store
        self._mirror = mirror
        self._user_agent = f"ollama/{version} (amd64 linux) Go/simulated"
        self._pause = pause
        self._frame_seconds = frame_seconds
        self._client = httpx.Client(timeout=httpx.Timeout(30), limits=httpx.Limits(max_connections=PARTS * 4))
        self._running: dict[str, Download] = {}
        self._lock = threading.Lock()

    def close(self) -> None:
        for download in list(self._running.values()):
            download.cancel()
            download.join(timeout=2)
        self._client.close()

    def pull(
        self, name: ModelName, *, insecure: bool, faults: dict[Kind, Fault], gone: Callable[[], bool]
    ) -> Iterator[Frame]:
        """The frames of a pull; ends with success or raises SimError."""
        older = self._store.digests_of(name)
        yield {"status": "pulling manifest"}
        upstream = self._upstream(name, insecure=insecure)
        raw, layers = self._manifest(upstream, name)
        fresh: list[dict[str, Any]] = []
        for layer in layers:
            if "full" in faults and not self._store.blob(layer["digest"]).exists():
                raise SimError(ENOSPC.format(path=self._store.blob(layer["digest"])))
            yield from self._blob(upstream, name, layer, fresh, gone)
        yield {"status": "verifying sha256 digest"}
        for layer in fresh:
            self._verify(layer["digest"], spoilt="digest" in faults)
        yield {"status": "writing manifest"}
        try:
            self._store.write_manifest(name, raw)
        except OSError as error:
            raise SimError(os_text(error, "open")) from error
        unused = sorted(older - {layer["digest"] for layer in layers})
        if unused and not self._store.no_prune:
            yield {"status": "removing unused layers"}
            self._store.delete_unreferenced(unused)
        yield {"status": "success"}

    def _upstream(self, name: ModelName, *, insecure: bool) -> Upstream:
        base = f"{'http' if insecure else 'https'}://{name.host}"
        if name.host == DEFAULT_HOST and self._mirror:
            base = self._mirror.rstrip("/")
        return Upstream(base, name.host.partition(":")[0], self._client, self._user_agent)

    def _manifest(self, upstream: Upstream, name: ModelName) -> tuple[bytes, list[dict[str, Any]]]:
        try:
            raw = upstream.ask("GET", f"/v2/{name.repository}/manifests/{name.tag}", Accept=MANIFEST_TYPE).content
            document = json.loads(raw)
        except SimError as error:
            raise SimError(f"pull model manifest: {error.text}") from error
        except ValueError as error:
            raise SimError("pull model manifest: unexpected end of JSON input") from error
        config = document.get("config") or {}
        return raw, [*(document.get("layers") or ()), *([config] if config.get("digest") else ())]

    def _blob(
        self,
        upstream: Upstream,
        name: ModelName,
        layer: dict[str, Any],
        fresh: list[dict[str, Any]],
        gone: Callable[[], bool],
    ) -> Iterator[Frame]:
        digest = layer["digest"]
        head = {"status": f"pulling {digest[7:19]}", "digest": digest}
        path = self._store.blob(digest)
        if path.exists():  # whatever is in it
            size = path.stat().st_size
            yield _without_zeros({**head, "total": size, "completed": size})
            return
        fresh.append(layer)
        download = self._join(upstream, name, digest)
        try:
            while not gone():
                download.join(timeout=self._frame_seconds)
                if not download.is_alive():
                    break
                yield _without_zeros({**head, "total": download.total, "completed": download.completed})
            else:
                raise SimError("context canceled")
        finally:
            self._leave(digest, download)
        if download.error:
            raise download.error

    def _join(self, upstream: Upstream, name: ModelName, digest: str) -> Download:
        with self._lock:
            download = self._running.get(digest)
            if download is None or not download.is_alive():
                download = Download(self._store, upstream, name.repository, digest, self._pause)
                download.prepare()
                self._running[digest] = download
                download.start()
            download.waiters += 1
            return download

    def _leave(self, digest: str, download: Download) -> None:
        with self._lock:
            download.waiters -= 1
            if download.waiters == 0:
                download.cancel()
                self._running.pop(digest, None)
        if download.waiters == 0:
            download.join(timeout=2)

    def _verify(self, digest: str, *, spoilt: bool) -> None:
        path = self._store.blob(digest)
        with path.open("rb") as file:
            got = hashlib.file_digest(file, "sha256").hexdigest()
        want = digest.removeprefix("sha256:")
        if spoilt or got != want:
            path.unlink()
            raise SimError(MISMATCH.format(want=want, got=got if got != want else "0" * 64))


def _without_zeros(frame: Frame) -> Frame:
    return {key: value for key, value in frame.items() if value != 0}
