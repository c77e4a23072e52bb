"""What the registry double holds, signs and counts; nothing of it knows HTTP."""

import hashlib
import secrets
import threading
from collections import Counter, deque
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

from jobs.core.clock import Clock, SystemClock
from jobs.registry.shared_rate import SharedRate
from jobs.testing.models import LIBRARY, SimLayer, SimModel
from jobs.testing.registry.faults import RegistryFaults

SIGNATURE_SECONDS = 3600
"""How long a signed address is good."""


@dataclass(frozen=True)
class RequestSeen:
    """One request as it came in."""

    method: str
    route: str
    path: str
    range: str | None
    authorization: str | None
    user_agent: str | None


class RegistryStock:
    """A registry's models, how it hands them out, and what it has served.

    Every connection's thread asks it, and a test's own thread sets what is public between two requests.

    Args:
        models: what it holds.
        port: where it is served; 0 picks a free one.
        token: manifests and blobs want a bearer token, which anyone gets from `/token`.
        throttle: bytes per second, shared by all answers.
        files: a folder where blobs lie as `sha256-<hex>`; those found are sent by the kernel.

    """

    def __init__(
        self,
        models: Iterable[SimModel] = LIBRARY,
        *,
        port: int = 0,
        token: bool = False,
        throttle: int | None = None,
        files: Path | None = None,
        clock: Clock | None = None,
    ) -> None:
        self.clock = clock or SystemClock()
        self._port = port
        self.redirect = True
        """Blobs are answered with 307 to a signed address on the CDN, as the real one does."""
        self.wants_token = token
        self.realm: str | None = None
        """Where the challenge points to, when not to this registry's own `/token`."""
        self.throttle = SharedRate(throttle, self.clock)
        self.files = files
        self.faults = RegistryFaults()
        self.token = secrets.token_hex(16)
        #: Set by whoever stops the servers, so that no connection's thread waits any longer.
        self.stopping = threading.Event()
        #: Where the registry and its CDN are; set as they start.
        self.url = self.cdn_url = ""
        #: By repository and tag; and all that their manifests name. A test adds while others ask; guarded by `_lock`.
        self._models = {(model.name.repository, model.name.tag): model for model in models}
        self._blobs: dict[str, SimLayer] = {}
        #: Signs addresses; replaced as a whole, so it is read without a lock.
        self._key = secrets.token_hex(16)
        #: Of one blob, beside it. Whoever expires its addresses sets it, those who sign and check read it.
        self._keys: dict[str, str] = {}
        #: Guards the models and the counters.
        self._lock = threading.Lock()
        self.reset()

    # What it holds

    def put(self, model: SimModel) -> None:
        """Publish a model, or a newer version of one: its tag moves."""
        with self._lock:
            self._models[model.name.repository, model.name.tag] = model

    def manifest(self, repository: str, reference: str) -> bytes | None:
        """By tag, or by digest within the repository."""
        with self._lock:
            by_tag = {tag: model for (name, tag), model in self._models.items() if name == repository}
        if reference in by_tag:
            return by_tag[reference].manifest
        return next((model.manifest for model in by_tag.values() if f"sha256:{model.digest}" == reference), None)

    def blob(self, digest: str) -> SimLayer | None:
        with self._lock:
            if digest not in self._blobs:  # hashing the stock takes a moment, so it waits for the first question
                for model in self._models.values():
                    self._blobs.update(model.blobs)
            return self._blobs.get(digest)

    def write_files(self, folder: Path) -> None:
        """Put every blob into `folder`, to be sent from there by the kernel."""
        for model in self._models.values():
            for digest, layer in model.blobs.items():
                with (folder / digest.replace(":", "-")).open("wb") as file:
                    file.writelines(layer.chunks())
        self.files = folder

    # Signed addresses

    def signed(self, digest: str) -> str:
        expires = self.clock.now().timestamp() + SIGNATURE_SECONDS
        return f"{self.cdn_url}/cdn/{digest}?expires={expires}&signature={self._signature(digest, str(expires))}"

    def is_signed(self, digest: str, query: str) -> bool:
        given = {key: values[0] for key, values in parse_qs(query).items()}
        expires = given.get("expires", "0")
        in_time = self.clock.now().timestamp() < float(expires)
        return in_time and given.get("signature") == self._signature(digest, expires)

    def expire(self, digest: str = "") -> None:
        """Refuse every address signed so far, of this blob alone where one is named."""
        if digest:
            self._keys[digest] = secrets.token_hex(16)
        else:
            self._key = secrets.token_hex(16)

    def _signature(self, digest: str, expires: str) -> str:
        return hashlib.sha256(f"{self._key} {self._keys.get(digest)} {digest} {expires}".encode()).hexdigest()

    # What it counts

    def reset(self) -> None:
        """Forget what was counted."""
        with self._lock:
            self.served: Counter[str] = Counter()
            self.requests: Counter[str] = Counter()
            self.seen: deque[RequestSeen] = deque(maxlen=10_000)
            self.connections = 0

    def count(
        self, *, seen: RequestSeen | None = None, served: tuple[str, int] | None = None, connections: int = 0
    ) -> None:
        with self._lock:
            self.connections += connections
            if seen:
                self.seen.append(seen)
                self.requests[seen.route] += 1
            if served and served[0]:  # manifests are no blobs
                self.served[served[0]] += served[1]

    def counters(self) -> dict[str, Any]:
        with self._lock:
            return {"served": dict(self.served), "requests": dict(self.requests), "connections": self.connections}
