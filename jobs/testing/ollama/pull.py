"""How the simulator pulls: the frames and traps of ollama's server/images.go.

One download per blob and process, shared by whoever waits for it; no check of what is on disk already.
"""

import hashlib
import json
import threading
from collections.abc import Callable, Iterator
from typing import Any

import httpx

from jobs.core.model_name import DEFAULT_HOST, ModelName
from jobs.testing.models import MANIFEST_TYPE
from jobs.testing.ollama.download import PARTS, Download, UpstreamRegistry
from jobs.testing.ollama.faults import ENOSPC, MISMATCH, OllamaFault, OllamaFaultKind, SimError
from jobs.testing.ollama.store import Store, os_text

FRAME_SECONDS = 0.06
"""How often a waiting pull says where it is."""

Frame = dict[str, Any]


class Puller:
    """All pulls of one server.

    Args:
        store: where to.
        mirror: stands for the default registry.
        version: told to registries.
        pause: seconds before a part's second try; doubles with each.

    """

    def __init__(self, store: Store, *, mirror: str | None, version: str, pause: float = 1.0) -> None:
        self._store = store
        self._mirror = mirror
        self._user_agent = f"ollama/{version} (amd64 linux) Go/simulated"
        self._pause = pause
        limits = httpx.Limits(max_connections=PARTS * 4, max_keepalive_connections=0)  # so that each can be cut
        self._client = httpx.Client(timeout=httpx.Timeout(30), limits=limits)
        #: By digest; every pull's thread joins and leaves; guarded by `_lock`.
        self._running: dict[str, Download] = {}
        self._lock = threading.Lock()

    def close(self) -> None:
        for download in list(self._running.values()):
            download.cancel()
            download.join(timeout=2)
        self._client.close()

    def pull(
        self, name: ModelName, *, insecure: bool, faults: dict[OllamaFaultKind, OllamaFault], gone: Callable[[], bool]
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

    def _upstream(self, name: ModelName, *, insecure: bool) -> UpstreamRegistry:
        base = f"{'http' if insecure else 'https'}://{name.host}"
        if name.host == DEFAULT_HOST and self._mirror:
            base = self._mirror.rstrip("/")
        return UpstreamRegistry(base, name.host.partition(":")[0], self._client, self._user_agent)

    def _manifest(self, upstream: UpstreamRegistry, name: ModelName) -> tuple[bytes, list[dict[str, Any]]]:
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
        upstream: UpstreamRegistry,
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
                download.join(timeout=FRAME_SECONDS)
                if not download.is_alive():
                    break
                yield _without_zeros({**head, "total": download.total, "completed": download.completed})
            else:
                raise SimError("context canceled")
        finally:
            self._leave(digest, download)
        if download.error:
            raise download.error

    def _join(self, upstream: UpstreamRegistry, name: ModelName, digest: str) -> Download:
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
