"""Are the bytes of these blobs what their digests say? Several at once, because hashing leaves the interpreter alone.

It reads and reports; what becomes of a damaged blob is for others to decide.
"""

import errno
import hashlib
import os
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from jobs.core.errors import os_trouble
from jobs.core.progress import Progress
from jobs.weights.manifest import Layer

CHUNK = 4 * 1024 * 1024
"""Large enough that reading and hashing dominate, small enough that a stop is obeyed at once."""

AT_ONCE = min(4, os.cpu_count() or 1)
"""As many readers as there are cores, up to four: beyond that a disk is the limit."""

DamageKind = Literal["missing", "short", "long", "flipped", "unreadable"]


@dataclass(frozen=True)
class Damage:
    """A blob that is not what its digest says: what size it should have, what it has, and how it is wrong."""

    digest: str
    kind: DamageKind
    want: int
    got: int

    def __str__(self) -> str:
        return f"{self.digest[:19]}… is {self.kind}: {self.got} of {self.want} bytes"


class _Stopped(Exception):
    """Another reader has already raised what ended this."""


def verify(
    blobs: Iterable[tuple[Path, Layer]], *, progress: Progress | None = None, check: Callable[[], None] = lambda: None
) -> list[Damage]:
    """Hash these files; the damaged ones, in the order given.

    Args:
        blobs: each file with what it should be.
        progress: moved by every byte read; a blob that is damaged counts in full.
        check: called between chunks, from the reading threads; what it raises stops all of them and is raised here.

    """
    wanted = list(blobs)
    if progress is not None:
        progress.begin("verifying", total=sum(layer.size for _, layer in wanted), completed=0)
    check()
    stop = threading.Event()

    def checked() -> None:
        if stop.is_set():
            raise _Stopped
        check()

    pool = ThreadPoolExecutor(max_workers=AT_ONCE, thread_name_prefix="verify")
    try:
        largest_first = sorted(range(len(wanted)), key=lambda index: -wanted[index][1].size)
        futures = {index: pool.submit(_damage, *wanted[index], progress, checked) for index in largest_first}
        done, _ = wait(futures.values(), return_when=FIRST_EXCEPTION)
        stop.set()
        for future in done:
            error = future.exception()
            if error is not None and not isinstance(error, _Stopped):
                raise error
        return [damage for index in range(len(wanted)) if (damage := futures[index].result()) is not None]
    finally:
        stop.set()
        pool.shutdown(cancel_futures=True)


def _damage(path: Path, layer: Layer, progress: Progress | None, check: Callable[[], None]) -> Damage | None:
    counted = 0

    def moved(amount: int) -> None:
        nonlocal counted
        counted += amount
        if progress is not None and amount > 0:
            progress.advance(amount)

    try:
        damage = _hash_and_compare(path, layer, moved, check)
    except FileNotFoundError:
        damage = Damage(layer.digest, "missing", layer.size, 0)
    except OSError as error:
        if error.errno != errno.EIO:
            raise os_trouble(error, doing=f"verifying {layer.digest}") from error
        damage = Damage(layer.digest, "unreadable", layer.size, counted)
    moved(layer.size - counted)
    return damage


def _hash_and_compare(
    path: Path, layer: Layer, moved: Callable[[int], None], check: Callable[[], None]
) -> Damage | None:
    with path.open("rb", buffering=0) as file:
        size = os.fstat(file.fileno()).st_size
        if size != layer.size:
            return Damage(layer.digest, "short" if size < layer.size else "long", layer.size, size)
        digest = hashlib.sha256()
        buffer = memoryview(bytearray(min(CHUNK, max(1, size))))
        while count := file.readinto(buffer):
            check()
            digest.update(buffer[:count])
            moved(count)
    return None if f"sha256:{digest.hexdigest()}" == layer.digest else Damage(layer.digest, "flipped", layer.size, size)
