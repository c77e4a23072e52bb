"""The trash of a models directory: what was taken away lies here until its grace is over.

    <root>/trash/<when>-<slug>/manifests/<host>/<namespace>/<model>/<tag>    a model that was there, at most one
    <root>/trash/<when>-<slug>/blobs/sha256-<hex>                            what no published manifest needs
    <root>/trash/<when>-<slug>/rest/                                         part files and stagings that nobody wants
    <root>/trash/<when>-rollback@<job>.json                                  which version that job brings back

Ollama never looks here. Each folder is laid out like a models directory, and its name says when it was thrown away: no
note has to agree with it. Things come and go by rename alone, under the lock of the weights, which is the caller's.
"""

import json
import os
import re
import shutil
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path

from jobs.core.errors import Corrupt
from jobs.core.model_name import ModelName
from jobs.store.files import flush_folder
from jobs.weights.layout import Layout, ManifestFile, entries, make_folder, make_within
from jobs.weights.manifest import MAX_MANIFEST_BYTES, Layer, Manifest
from jobs.weights.staging import measured, slug

_FOLDER = re.compile(r"(\d{8}T\d{9})Z-[A-Za-z0-9_.-]+")
_DECISION = re.compile(r"(\d{8}T\d{9})Z-rollback@([A-Za-z0-9_.-]+)\.json(?:\.draft)?")
_DOOMED = "~"  # no folder's name begins so: what is left of one that was being deleted

StillOurs = Callable[[], None]
"""Raises when the job is not this worker's any more; asked before each rename."""

DECISIONS_STAY = timedelta(days=30)
"""How long a rollback's decision outlives its job: longer than any job waits for its next attempt."""


@dataclass(frozen=True)
class TrashFolder:
    """One folder of the trash; `manifest` is None when it holds no model, or one whose manifest is torn, and `size` is
    0 when nobody measured it.
    """

    path: Path
    thrown_at: datetime
    size: int
    name: ModelName | None = None
    manifest: Manifest | None = None

    @property
    def layout(self) -> Layout:
        return Layout(self.path)

    @property
    def wanted(self) -> tuple[str, ...]:
        """The digests of the blobs that its model consists of, wherever they are."""
        return () if self.manifest is None else tuple(layer.digest for layer in self.manifest.blobs)

    def holds(self, layer: Layer) -> bool:
        """Whether this blob lies here, in its full size."""
        path = self.layout.blob(layer.digest)
        return path.is_file() and not path.is_symlink() and path.stat().st_size == layer.size


@dataclass(frozen=True)
class Decision:
    """Which version a rollback's job brings back, for every attempt of that job."""

    model: str
    digest: str
    left: str | None
    """The digest that stood there when it was decided; None when there was none."""
    folder: str
    """The name of the trash's folder that the version comes from."""

    @property
    def name(self) -> ModelName:
        return ModelName.parse(self.model)

    @property
    def thrown_at(self) -> datetime | None:
        return _thrown_at(self.folder)


def folders(layout: Layout, *, measure: bool = False) -> list[TrashFolder]:
    """All folders of the trash, the oldest first; with what they take, which looks at each file, where it is wanted."""
    thrown = [
        _folder(layout.trash / entry.name, thrown_at, measure)
        for entry in entries(layout.trash)
        if (thrown_at := _thrown_at(entry.name)) is not None and entry.is_dir(follow_symlinks=False)
    ]
    return sorted(thrown, key=lambda folder: (folder.thrown_at, folder.path))


def versions(layout: Layout) -> frozenset[tuple[str, str]]:
    """The name, in small letters, and the digest of each model in the trash."""
    return frozenset(
        (str(each.name.folded()), each.manifest.digest) for each in folders(layout) if each.name and each.manifest
    )


class Holders:
    """In which of these folders a blob lies; each is listed once, however many blobs are asked for."""

    def __init__(self, folders: Iterable[TrashFolder]) -> None:
        self._by_name: dict[str, list[TrashFolder]] = defaultdict(list)
        for folder in folders:
            for entry in entries(folder.layout.blobs):
                self._by_name[entry.name].append(folder)

    def of(self, layer: Layer) -> TrashFolder | None:
        """The first folder that has this blob in its full size."""
        return next((folder for folder in self._by_name.get(layer.filename, ()) if folder.holds(layer)), None)


def strange_files(layout: Layout) -> list[Path]:
    """What lies around in the trash beside its folders, what a deletion has left, and decisions."""
    return [
        layout.trash / entry.name
        for entry in entries(layout.trash)
        if not (_thrown_at(entry.name) is not None and entry.is_dir(follow_symlinks=False))
        and not entry.name.startswith(_DOOMED)
        and not _DECISION.fullmatch(entry.name)
    ]


def _thrown_at(name: str) -> datetime | None:
    return _moment(_FOLDER.fullmatch(name))


def _moment(match: re.Match[str] | None) -> datetime | None:
    try:
        return datetime.strptime(f"{match[1]}+0000", "%Y%m%dT%H%M%S%f%z") if match else None
    except ValueError:  # digits, but no date
        return None


def _folder(path: Path, thrown_at: datetime, measure: bool) -> TrashFolder:
    return TrashFolder(path, thrown_at, measured(path)[0] if measure else 0, *_model_in(path))


def _model_in(path: Path) -> tuple[ModelName | None, Manifest | None]:
    for file in Layout(path).manifest_files():
        try:
            with file.path.open("rb") as opened:
                manifest = Manifest.parse(opened.read(MAX_MANIFEST_BYTES + 1))
        except FileNotFoundError:
            continue
        except Corrupt:
            return file.name, None
        return file.name, manifest
    return None, None


def make(layout: Layout, subject: str, now: datetime) -> Path:
    """A new folder for what is thrown away now."""
    stem = f"{_stamp(now)}-{slug(subject)}"
    for number in count(1):
        folder = layout.trash / (stem if number == 1 else f"{stem}-{number}")
        try:
            folder.mkdir()
        except FileExistsError:
            continue
        except FileNotFoundError:
            make_folder(folder, below=layout.root)
            return folder
        folder.chmod(0o755)
        return folder
    raise AssertionError


def _stamp(now: datetime) -> str:
    return now.astimezone(UTC).strftime("%Y%m%dT%H%M%S%f")[:-3] + "Z"


def move(source: Path, target: Path, *, below: Path) -> bool:
    """Rename a file or folder to a place that need not have its folder yet; false when it was gone already."""
    make_folder(target.parent, below=below)
    try:
        source.rename(target)
    except FileNotFoundError:
        return False
    flush_folder(target.parent)
    flush_folder(source.parent)
    return True


def throw_blobs(layout: Layout, folder: Path, layers: Iterable[Layer]) -> list[Layer]:
    """Move published blobs into a folder of the trash; those that were there."""
    target = Layout(folder)
    moved: list[Layer] = []
    for layer in layers:
        if not moved:
            target.blobs.mkdir(exist_ok=True)
            target.blobs.chmod(0o755)
        try:
            layout.blob(layer.digest).rename(target.blob(layer.digest))
        except FileNotFoundError:
            continue
        moved.append(layer)
    if moved:
        flush_folder(target.blobs)
        flush_folder(layout.blobs)
    return moved


def keep_copy(layout: Layout, file: ManifestFile, raw: bytes, now: datetime) -> Path:
    """Put a copy of a manifest that is about to be replaced into a folder of its own; the folder."""
    folder = make(layout, str(file.name), now)
    target = Layout(folder).manifest(file.name)
    make_within(folder, target.parent)
    draft = folder / "draft"
    _write(draft, raw)
    draft.rename(target)
    flush_folder(target.parent)
    return folder


def _write(path: Path, content: bytes) -> None:
    """On the disk for good before anything is renamed to its name."""
    with path.open("wb") as written:
        written.write(content)
        written.flush()
        os.fsync(written.fileno())


def decide(layout: Layout, job: str, decision: Decision, now: datetime) -> None:
    """Write down what a rollback's job decided, in place of what it decided before; the trash must be there."""
    _forget_decisions(layout, now)
    known = _decisions(layout, job)
    path = known[0] if known else layout.trash / f"{_stamp(now)}-rollback@{job}.json"
    draft = path.with_name(f"{path.name}.draft")
    _write(draft, json.dumps(asdict(decision)).encode())
    move(draft, path, below=layout.root)


def decided(layout: Layout, job: str) -> Decision | None:
    """What this job decided; None when it did not come so far.

    Raises:
        Corrupt: it is written down, and cannot be read.

    """
    for path in _decisions(layout, job):
        try:
            return Decision(**json.loads(path.read_bytes()))
        except (ValueError, TypeError) as error:
            raise Corrupt(
                f"what rollback {job} decided cannot be read: {path}",
                hint="see which version is there, and ask for another rollback if it is the wrong one",
            ) from error
    return None


def _decisions(layout: Layout, job: str) -> list[Path]:
    names = [entry.name for entry in entries(layout.trash) if entry.name.endswith(f"-rollback@{job}.json")]
    return [layout.trash / name for name in names if _DECISION.fullmatch(name)]


def drop_if_empty(folder: Path) -> None:
    """Remove a folder of the trash when no file is left in it."""
    if _is_hollow(folder):
        shutil.rmtree(folder, ignore_errors=True)  # what is left of it, the next prune finds


def _is_hollow(folder: Path) -> bool:
    """Whether there are only folders in it."""
    return all(entry.is_dir(follow_symlinks=False) and _is_hollow(folder / entry.name) for entry in entries(folder))


def delete(layout: Layout, folder: Path) -> None:
    """Delete a folder of the trash for good. It is renamed first: half of one must never look like a whole."""
    doomed = layout.trash / f"{_DOOMED}{folder.name}"
    shutil.rmtree(doomed, ignore_errors=True)
    folder.rename(doomed)
    shutil.rmtree(doomed)


def sweep(layout: Layout, now: datetime) -> None:
    """Finish what a killed deletion has left, and remove decisions that no attempt will ask for any more."""
    for entry in entries(layout.trash):
        if entry.name.startswith(_DOOMED):
            shutil.rmtree(layout.trash / entry.name)
    _forget_decisions(layout, now)


def _forget_decisions(layout: Layout, now: datetime) -> None:
    for entry in entries(layout.trash):
        at = _moment(_DECISION.fullmatch(entry.name))
        if at is not None and now - at >= DECISIONS_STAY and entry.is_file(follow_symlinks=False):
            (layout.trash / entry.name).unlink(missing_ok=True)
