"""What is really in a models directory: whole models, broken ones, and everything else that takes room.

It reads only, follows no link out of the folders it lists, and copes with files that come and go while it looks.
"""

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from pathlib import Path
from stat import S_ISREG
from typing import Literal

from jobs.core.clock import moment_of
from jobs.core.errors import Corrupt
from jobs.core.model_name import ModelName
from jobs.core.units import counted
from jobs.store.files import translated
from jobs.weights import staging, trash
from jobs.weights.layout import INDEX, Layout, ManifestFile, bytes_on_disk, entries, stat_file
from jobs.weights.manifest import MAX_MANIFEST_BYTES, Layer, Manifest, ModelDetails
from jobs.weights.staging import StagingFolder, measured
from jobs.weights.trash import TrashFolder

STALE = timedelta(hours=1)
"""What nobody touched for this long is left over: Ollama's own grace for partial files."""

MAX_CONFIG_BYTES = 4 * 1024 * 1024

_BLOB = re.compile(r"sha256-[0-9a-f]{64}")
_PARTIAL = re.compile(r"sha256-[0-9a-f]{64}-partial")
_PART = re.compile(r"sha256-[0-9a-f]{64}-partial-\d+")
_TEMP = re.compile(r"sha256-[0-9a-f]{64}\.tmp|sha256-\d+")


class BlobState(StrEnum):
    PRESENT = "present"
    SHORT = "short"
    """There, but not of the size the manifest says."""
    MISSING = "missing"


@dataclass(frozen=True)
class SurveyedModel:
    """A whole model: its manifest parses, and every blob is there with the right size."""

    name: ModelName
    digest: str
    size: int
    modified_at: datetime
    manifest: Manifest
    details: ModelDetails


@dataclass(frozen=True)
class Broken:
    """A manifest without a whole model behind it: torn when `manifest` is None, else blobs are missing or short."""

    name: ModelName
    path: Path
    size: int
    cause: str
    manifest: Manifest | None = None
    missing: tuple[Layer, ...] = ()
    short: tuple[Layer, ...] = ()

    @property
    def is_torn(self) -> bool:
        return self.manifest is None


StrayKind = Literal["orphan", "partial", "part", "temp", "unknown"]


@dataclass(frozen=True)
class Stray:
    """A file that no model needs: `size` is what it takes on disk. A poisoned part file ends each of Ollama's pulls."""

    kind: StrayKind
    path: Path
    size: int
    modified_at: datetime
    is_poisoned: bool = False


@dataclass(frozen=True)
class Survey:
    models: tuple[SurveyedModel, ...]
    broken: tuple[Broken, ...]
    strays: tuple[Stray, ...]
    stagings: tuple[StagingFolder, ...]
    trash: tuple[TrashFolder, ...]
    usage_bytes: int
    """All of it, the trash included."""

    def of(self, kind: StrayKind) -> tuple[Stray, ...]:
        return tuple(stray for stray in self.strays if stray.kind == kind)

    @property
    def known(self) -> tuple[SurveyedModel | Broken, ...]:
        """What stands behind each manifest."""
        return (*self.models, *self.broken)

    def names(self, *, trash: bool = False) -> list[ModelName]:
        """The models that are here, whole or not; with those of which the trash has a version."""
        thrown = [folder.name for folder in self.trash if folder.name and folder.manifest] if trash else []
        return [*(each.name for each in self.known), *thrown]

    @property
    def torn(self) -> tuple[Broken, ...]:
        """While there is one, nobody can tell which blobs are orphans for certain."""
        return tuple(each for each in self.broken if each.is_torn)

    @property
    def incomplete(self) -> tuple[Broken, ...]:
        return tuple(each for each in self.broken if not each.is_torn)

    @property
    def orphans(self) -> tuple[Stray, ...]:
        return self.of("orphan")

    @property
    def trash_bytes(self) -> int:
        return sum(folder.size for folder in self.trash)

    @property
    def poisoned(self) -> tuple[Stray, ...]:
        return tuple(stray for stray in self.strays if stray.is_poisoned)


def read_manifest(path: Path) -> bytes:
    """The bytes of a manifest, no more than one can have.

    Raises:
        FileNotFoundError: it is gone.
        Corrupt: it is there and cannot be read.

    """
    try:
        with path.open("rb") as file:
            return file.read(MAX_MANIFEST_BYTES + 1)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise FileNotFoundError(str(path)) from error
    except OSError as error:
        raise Corrupt(f"the manifest cannot be read: {error.strerror}") from error


def read_manifests(
    layout: Layout, files: Iterable[ManifestFile] | None = None
) -> Iterator[tuple[ManifestFile, Manifest | Corrupt]]:
    """What each manifest file says, or each of these, or what is wrong with it; no blob is looked at."""
    for file in layout.manifest_files() if files is None else files:
        try:
            yield file, Manifest.parse(read_manifest(file.path))
        except FileNotFoundError:
            continue
        except Corrupt as error:
            yield file, error


def blob_state(layout: Layout, layer: Layer) -> BlobState:
    stat = stat_file(layout.blob(layer.digest))
    if stat is None or not S_ISREG(stat.st_mode):
        return BlobState.MISSING
    return BlobState.PRESENT if stat.st_size == layer.size else BlobState.SHORT


def read_model(layout: Layout, file: ManifestFile) -> SurveyedModel | Broken | None:
    """What stands behind a manifest file; None when it vanished meanwhile."""
    stat = stat_file(file.path)
    if stat is None:
        return None
    try:
        manifest = Manifest.parse(read_manifest(file.path))
    except FileNotFoundError:
        return None
    except Corrupt as error:
        return Broken(file.name, file.path, stat.st_size, str(error))
    states = [(blob_state(layout, layer), layer) for layer in manifest.blobs]
    missing = tuple(layer for state, layer in states if state is BlobState.MISSING)
    short = tuple(layer for state, layer in states if state is BlobState.SHORT)
    if missing or short:
        gone, wrong = counted(len(missing), "is", "are"), counted(len(short), "has", "have")
        cause = f"of {counted(len(states), 'blob')} {gone} missing and {wrong} a wrong size"
        return Broken(file.name, file.path, stat.st_size, cause, manifest, missing, short)
    return SurveyedModel(
        name=file.name,
        digest=manifest.digest,
        size=manifest.size,
        modified_at=moment_of(stat.st_mtime),
        manifest=manifest,
        details=_details(layout, manifest.config),
    )


def _details(layout: Layout, config: Layer) -> ModelDetails:
    if config.size > MAX_CONFIG_BYTES:
        return ModelDetails()
    try:
        return ModelDetails.parse(layout.blob(config.digest).read_bytes())
    except (Corrupt, OSError):  # the model is listed all the same; verify tells what is wrong with the blob
        return ModelDetails()


def read_models(layout: Layout) -> list[SurveyedModel | Broken]:
    """What stands behind each manifest file."""
    models = (read_model(layout, file) for file in layout.manifest_files())
    return [each for each in models if each is not None]


def survey(layout: Layout) -> Survey:
    """Tell everything in the models directory apart, with the room it takes."""
    known = read_models(layout)
    models = tuple(each for each in known if isinstance(each, SurveyedModel))
    broken = tuple(each for each in known if isinstance(each, Broken))
    referenced = _referenced(known)
    blob_bytes, strays = _blob_folder(layout, referenced)
    stagings, thrown = staging.folders(layout.staging), trash.folders(layout, measure=True)
    elsewhere = [layout.root / entry.name for entry in entries(layout.root) if entry.name not in _OURS]
    strays += [
        stray
        for path in (
            *layout.strange_files(),
            *staging.strange_files(layout.staging),
            *trash.strange_files(layout),
            *elsewhere,
        )
        if (stray := _stray("unknown", path)) is not None
    ]
    usage = (
        blob_bytes
        + sum(len(model.manifest.raw) for model in models)
        + sum(each.size for each in broken)
        + sum(stray.size for stray in strays)
        + sum(folder.size for folder in stagings)
        + sum(folder.size for folder in thrown)
    )
    return Survey(models, broken, tuple(strays), tuple(stagings), tuple(thrown), usage)


def parts(layout: Layout) -> tuple[Stray, ...]:
    """The part files of pulls by a server, some of which may be poisoned."""
    found = (
        _stray("part", layout.blobs / entry.name) for entry in entries(layout.blobs) if _PART.fullmatch(entry.name)
    )
    return tuple(each for each in found if each is not None)


_OURS = frozenset({"manifests", "blobs", "staging", "trash", "ops", INDEX, f"{INDEX}.draft"})


def _referenced(known: Iterable[SurveyedModel | Broken]) -> frozenset[str]:
    manifests = (each.manifest for each in known)
    return frozenset(layer.filename for manifest in manifests if manifest is not None for layer in manifest.blobs)


def _blob_folder(layout: Layout, referenced: frozenset[str]) -> tuple[int, list[Stray]]:
    """Bytes in referenced blobs, and every other file there."""
    in_use = 0
    strays: list[Stray] = []
    for entry in entries(layout.blobs):
        path = layout.blobs / entry.name
        if entry.name in referenced:
            stat = stat_file(path)
            in_use += 0 if stat is None else stat.st_size
        elif (stray := _stray(_kind(entry.name), path)) is not None:
            strays.append(stray)
    return in_use, strays


def _kind(filename: str) -> StrayKind:
    kinds: tuple[tuple[re.Pattern[str], StrayKind], ...] = (
        (_BLOB, "orphan"),
        (_PARTIAL, "partial"),
        (_PART, "part"),
        (_TEMP, "temp"),
    )
    return next((kind for pattern, kind in kinds if pattern.fullmatch(filename)), "unknown")


def _stray(kind: StrayKind, path: Path) -> Stray | None:
    stat = stat_file(path, follow=False)
    if stat is None:
        return None
    if not S_ISREG(stat.st_mode):  # a folder, a link or worse under a name Ollama uses is nobody's
        kind = "unknown"
    with translated(f"measuring {str(path)!r}"):
        size, changed = measured(path)
    if kind == "orphan":
        size = max(size, bytes_on_disk(stat))
    return Stray(kind, path, size, moment_of(changed), kind == "part" and _is_poisoned(path))


def _is_poisoned(path: Path) -> bool:
    """Whether Ollama would fail at this part file for ever: empty, torn, or without its numbers."""
    try:
        part = json.loads(path.read_bytes()[:65536])
    except FileNotFoundError:
        return False
    except (ValueError, RecursionError):
        return True
    numbers = part if isinstance(part, dict) else {}
    return not all(isinstance(numbers.get(key), int) for key in ("N", "Offset", "Size", "Completed"))
