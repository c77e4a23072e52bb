"""`modal.Volume` (version 2) as containers meet it: everyone works on a view, commits publish, reloads refresh.

A volume is a tree of files nobody writes to any more. A view is one container's directory: a commit copies what changed
there into the volume, file by file and the last one wins; a reload brings in what others committed.
"""

import itertools
import os
import shutil
import stat
import threading
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from google.protobuf.empty_pb2 import Empty
from grpclib import GRPCError, Status
from modal_proto import api_pb2

from tests.modal.platform.named import Environments, Named
from tests.modal.platform.wire import not_found

Signature = tuple[int, int, int, int]


@dataclass(frozen=True)
class Stored:
    """One committed path: a file's content, a link's target, or a directory."""

    mode: int
    mtime_ns: int = 0
    content: Path | None = None
    link: str | None = None


def signature(path: Path) -> Signature:
    """Tells whether a path has changed since it was last looked at."""
    seen = path.lstat()
    if stat.S_ISDIR(seen.st_mode):
        return (seen.st_mode, 0, 0, 0)
    return (seen.st_mode, seen.st_ino, seen.st_size, seen.st_mtime_ns)


class Volume:
    def __init__(self, home: Path) -> None:
        self.home = home
        self.home.mkdir(parents=True)
        self.tree: dict[str, Stored] = {}
        self.turn = threading.Lock()
        """Held by the one view that commits, refreshes or closes, to its end: nobody can call back its thread."""
        self._numbers = itertools.count()

    def store(self, path: Path) -> Stored:
        """Copy what stands at `path` into the volume's own keeping."""
        seen = path.lstat()
        if stat.S_ISDIR(seen.st_mode):
            return Stored(seen.st_mode)
        if stat.S_ISLNK(seen.st_mode):
            return Stored(seen.st_mode, link=path.readlink().as_posix())
        content = self.home / str(next(self._numbers))
        shutil.copyfile(path, content)
        content.chmod(stat.S_IMODE(seen.st_mode))
        os.utime(content, ns=(seen.st_mtime_ns, seen.st_mtime_ns))
        return Stored(seen.st_mode, seen.st_mtime_ns, content)

    def files(self) -> dict[str, bytes]:
        """The committed files by path, for assertions."""
        return {path: one.content.read_bytes() for path, one in sorted(self.tree.items()) if one.content}

    def merge(self, written: Mapping[str, Stored], removed: Iterable[str]) -> None:
        gone = set(removed)
        self.tree = {path: one for path, one in self.tree.items() if path not in gone} | dict(written)


@dataclass
class View:
    volume: Volume
    path: Path
    read_only: bool
    synced: dict[str, tuple[Signature, Stored]] = field(default_factory=dict)
    is_closed: bool = False

    def scan(self) -> dict[str, Signature]:
        found: dict[str, Signature] = {}
        for folder, folders, files in os.walk(self.path):
            for name in (*folders, *files):
                path = Path(folder, name)
                try:
                    found[path.relative_to(self.path).as_posix()] = signature(path)
                except FileNotFoundError:
                    continue  # renamed or removed while we looked: the next commit sees what became of it
        return found

    def commit(self) -> None:
        """Publish what changed here since the last commit or reload, all of it in one step for those who look."""
        with self.volume.turn:
            if not self.read_only and not self.is_closed:
                self._commit()

    def _commit(self) -> None:
        now = self.scan()
        written: dict[str, Stored] = {}
        for name, seen in now.items():
            if name in self.synced and self.synced[name][0] == seen:
                continue
            try:
                written[name] = self.volume.store(self.path / name)
            except FileNotFoundError:
                continue
            self.synced[name] = (seen, written[name])
        removed = [name for name in self.synced if name not in now]
        for name in removed:
            del self.synced[name]
        self.volume.merge(written, removed)

    def refresh(self) -> None:
        """Make the directory hold what is committed."""
        with self.volume.turn:
            if not self.is_closed:
                self._refresh()

    def _refresh(self) -> None:
        tree = self.volume.tree
        for name in sorted(set(self.synced) - set(tree), reverse=True):
            self._remove(self.path / name)
            del self.synced[name]
        for name, stored in sorted(tree.items()):
            if name not in self.synced or self.synced[name][1] != stored:
                self._write(self.path / name, stored)
                self.synced[name] = (signature(self.path / name), stored)

    def close(self) -> None:
        """Take the directory away: what was not committed is lost, and whoever would commit it from now on does not."""
        with self.volume.turn:
            self.is_closed = True
            shutil.rmtree(self.path, ignore_errors=True)

    def _remove(self, path: Path) -> None:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)

    def _write(self, path: Path, stored: Stored) -> None:
        if stat.S_ISDIR(stored.mode):
            path.mkdir(exist_ok=True, parents=True)
            return
        self._remove(path)
        if stored.link is not None:
            path.symlink_to(stored.link)
        elif stored.content is not None and self.read_only:
            path.hardlink_to(stored.content)
        elif stored.content is not None:
            shutil.copy2(stored.content, path)

    def identities(self) -> set[tuple[int, int]]:
        """Device and inode of the directory and of all that is in it, and was still there when it was looked at."""
        found: set[tuple[int, int]] = set()
        for path in (self.path, *(self.path / name for name in self.scan())):
            with suppress(FileNotFoundError):
                seen = path.lstat()
                found.add((seen.st_dev, seen.st_ino))
        return found


class Volumes:
    def __init__(self, environments: Environments, home: Path) -> None:
        self.home = home / "volumes"
        self.versions: dict[str, int] = {}
        self._numbers = itertools.count(1)
        self.named: Named[Volume] = Named("Volume", "vo", environments)

    def new(self) -> Volume:
        return Volume(self.home / str(next(self._numbers)))

    def metadata(self, volume_id: str) -> api_pb2.VolumeMetadata:
        self.named.find(volume_id)
        version = self.versions.get(volume_id, api_pb2.VOLUME_FS_VERSION_V2)
        return api_pb2.VolumeMetadata(version=version, name=self.named.name_of(volume_id))  # type: ignore[arg-type]

    async def volume_get_or_create(
        self, request: api_pb2.VolumeGetOrCreateRequest
    ) -> api_pb2.VolumeGetOrCreateResponse:
        volume_id = self.named.get_or_create(request, lambda _: self.new())
        version = self.versions.setdefault(volume_id, request.version or api_pb2.VOLUME_FS_VERSION_V1)
        if request.version and request.version != version:
            raise GRPCError(Status.FAILED_PRECONDITION, f"Volume {request.deployment_name!r} has version {version}")
        metadata = self.metadata(volume_id)
        return api_pb2.VolumeGetOrCreateResponse(
            volume_id=volume_id,
            version=version,  # type: ignore[arg-type]
            metadata=metadata,
        )

    async def volume_get_by_id(self, request: api_pb2.VolumeGetByIdRequest) -> api_pb2.VolumeGetByIdResponse:
        return api_pb2.VolumeGetByIdResponse(volume_id=request.volume_id, metadata=self.metadata(request.volume_id))

    async def volume_delete(self, request: api_pb2.VolumeDeleteRequest) -> Empty:
        self.named.delete(request.volume_id)
        return Empty()

    async def volume_heartbeat(self, request: api_pb2.VolumeHeartbeatRequest) -> Empty:
        self.named.find(request.volume_id)
        return Empty()

    async def volume_list_files2(
        self, request: api_pb2.VolumeListFiles2Request
    ) -> AsyncIterator[api_pb2.VolumeListFiles2Response]:
        tree = self.named.find(request.volume_id).tree
        folder = request.path.strip("/")
        if folder in tree and tree[folder].content:
            names = [folder]
        elif folder and folder not in tree:
            raise not_found(f"No such file or directory: {request.path!r}")
        else:
            prefix = f"{folder}/" if folder else ""
            names = [name for name in sorted(tree) if name.startswith(prefix)]
            names = [name for name in names if request.recursive or "/" not in name[len(prefix) :]]
        yield api_pb2.VolumeListFiles2Response(entries=[self._entry(name, tree[name]) for name in names])

    def _entry(self, name: str, stored: Stored) -> api_pb2.FileEntry:
        kind = api_pb2.FileEntry.FILE if stored.content else api_pb2.FileEntry.DIRECTORY
        size = stored.content.stat().st_size if stored.content else 0
        return api_pb2.FileEntry(path=name, type=kind, mtime=stored.mtime_ns // 10**9, size=size)

    async def volume_remove_file2(self, request: api_pb2.VolumeRemoveFile2Request) -> Empty:
        volume = self.named.find(request.volume_id)
        path = request.path.strip("/")
        inside = [name for name in volume.tree if name.startswith(f"{path}/")]
        if path not in volume.tree:
            raise not_found(f"No such file or directory: {request.path!r}")
        if inside and not request.recursive:
            raise GRPCError(Status.INVALID_ARGUMENT, f"{request.path!r} is a directory")
        volume.merge({}, [path, *inside])
        return Empty()
