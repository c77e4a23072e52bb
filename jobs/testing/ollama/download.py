"""One blob on its way into the simulator's directory, as ollama's server/download.go fetches it.

Parts with a JSON file each; a partial file of full size from the first byte; statuses of parts not looked at.
"""

import json
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import httpx

from jobs.http.watched_stream import Lifeline
from jobs.testing.models import SCALE
from jobs.testing.ollama.faults import SimError
from jobs.testing.ollama.store import Store, os_text

SMALLEST_PART = 100_000_000 // SCALE
LARGEST_PART = 1_000_000_000 // SCALE
PARTS = 16
TRIES = 6


@dataclass(frozen=True)
class UpstreamRegistry:
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
                method, url, headers={"User-Agent": self.user_agent, **headers}, follow_redirects=method == "HEAD"
            )
        except httpx.HTTPError as error:
            raise SimError(f'{method.capitalize()} "{url}": {go_words(error, url)}') from error
        if answer.status_code == 401:
            raise SimError("unauthorized: access denied")
        if answer.status_code == 404:
            raise SimError("file does not exist")
        if answer.status_code >= 400:
            raise SimError(f"{answer.status_code}: {answer.text}")
        return answer


def go_words(error: httpx.HTTPError, url: str) -> str:
    host = urlsplit(url).hostname
    if isinstance(error, httpx.ConnectError):
        if "Name or service" in str(error) or "name resolution" in str(error):
            return f"dial tcp: lookup {host}: no such host"
        return f"dial tcp {urlsplit(url).netloc}: connect: connection refused"
    return "context deadline exceeded" if isinstance(error, httpx.TimeoutException) else "EOF"


class Download(threading.Thread):
    """One blob on its way; the last one who stops waiting for it cancels it."""

    def __init__(self, store: Store, upstream: UpstreamRegistry, repository: str, digest: str, pause: float) -> None:
        super().__init__(name=f"pulling {digest[7:19]}", daemon=True)
        #: Bytes of all parts; set by `prepare`, before the thread starts, and read by whoever waits.
        self.total = 0
        #: Set as the thread ends; whoever waits reads it once the thread has ended.
        self.error: SimError | None = None
        #: How many pulls wait for it; guarded by the puller's lock.
        self.waiters = 0
        self._target = store.blob(digest)
        self._path = f"/v2/{repository}/blobs/{digest}"
        self._upstream = upstream
        self._pause = pause
        #: Listed by `prepare`; each part's bytes are counted by the one thread that fetches it, and read by all.
        self._parts: list[BlobPart] = []
        #: Set by the last one who stops waiting, from his own thread.
        self._cancelled = threading.Event()
        #: Of each part's request; put in by the thread that fetches it, read by `cancel` as a copy.
        self._lifelines: dict[int, Lifeline] = {}

    @property
    def completed(self) -> int:
        return sum(part.completed for part in self._parts)

    def prepare(self) -> None:
        """Take up the parts of an earlier pull, or cut new ones; a part file that cannot be read is the error."""
        kept = sorted(self._target.parent.glob(f"{self._target.name}-partial-*"))
        for path in kept:
            self._parts.append(BlobPart.read(path))
        if not kept:
            self.total = int(self._upstream.ask("HEAD", self._path).headers.get("Content-Length", "0"))
            size = min(max(self.total // PARTS, SMALLEST_PART), LARGEST_PART)
            for n, offset in enumerate(range(0, self.total, size)):
                part = BlobPart(Path(f"{self._target}-partial-{n}"), n, offset, min(size, self.total - offset))
                part.write()
                self._parts.append(part)
        self.total = sum(part.size for part in self._parts)

    def cancel(self) -> None:
        """Stop now; every part keeps what it has."""
        self._cancelled.set()
        for lifeline in list(self._lifelines.values()):
            lifeline.cut()

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

    def _fetch(self, url: str, partial: Path, part: "BlobPart") -> None:
        """Six tries with doubling pauses; the count does not start anew when bytes came."""
        attempt, last = 0, "EOF"
        while attempt < TRIES:
            try:
                last = self._try(url, partial, part)
            except httpx.ReadTimeout:  # a stall: tried again for ever
                attempt -= 1
            except httpx.HTTPError as error:
                last = go_words(error, url) if isinstance(error, httpx.ConnectError) else "unexpected EOF"
                part.write()
            if self._cancelled.is_set():
                part.write()
                raise SimError("context canceled")
            if not last:
                return
            self._cancelled.wait(self._pause * 2 ** max(0, attempt))
            attempt += 1
        raise SimError(f"max retries exceeded: {last}")

    def _try(self, url: str, partial: Path, part: "BlobPart") -> str:
        """One GET; nothing when the part is whole. The status is not looked at: a short answer is an EOF."""
        before, wanted = part.completed, part.size - part.completed
        first, last = part.offset + before, part.offset + part.size - 1
        lifeline = self._lifelines[part.n] = Lifeline()
        ranged = {"Range": f"bytes={first}-{last}"}
        client, extensions = self._upstream.client, lifeline.extensions
        with partial.open("r+b") as file, client.stream("GET", url, headers=ranged, extensions=extensions) as answer:
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
class BlobPart:
    """A piece of a blob and its file on disk."""

    path: Path
    n: int
    offset: int
    size: int
    completed: int = 0

    @classmethod
    def read(cls, path: Path) -> "BlobPart":
        raw = path.read_bytes()
        try:
            record = json.loads(raw)
            return cls(path, record["N"], record["Offset"], record["Size"], record["Completed"])
        except (ValueError, KeyError) as error:
            raise SimError("EOF" if not raw.strip() else "unexpected EOF") from error

    def write(self) -> None:
        record = {"N": self.n, "Offset": self.offset, "Size": self.size, "Completed": self.completed}
        text = json.dumps(record, separators=(",", ":")) + "\n"
        # Over what was there, never empty in between: a download that was just given up may still be read by the next.
        with os.fdopen(os.open(self.path, os.O_WRONLY | os.O_CREAT, 0o644), "w", encoding="utf-8") as file:
            file.write(text)
            file.truncate()
