"""Where things stand in a models directory, as Ollama lays it out, and the few file operations all of it shares.

    <root>/manifests/<host>/<namespace>/<model>/<tag>     exactly four levels
    <root>/blobs/sha256-<hex>                             a dash, not a colon
    <root>/staging/<slug>@<holder>/                       ours: what a pull has fetched so far
    <root>/trash/<when>-<slug>/                           ours: what was taken away, until its grace is over
    <root>/index.json                                     ours, on a volume: all manifests at once

It finds and names; it decides nothing and deletes nothing.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from jobs.core.errors import BadName, os_trouble
from jobs.core.model_name import ModelName
from jobs.weights.manifest import is_digest

LEVELS = 4

INDEX = "index.json"


@dataclass(frozen=True)
class ManifestFile:
    """A file that Ollama takes for a manifest, whatever is in it; `name` keeps the spelling on disk."""

    name: ModelName
    path: Path


@dataclass(frozen=True)
class Layout:
    root: Path

    @property
    def blobs(self) -> Path:
        return self.root / "blobs"

    @property
    def manifests(self) -> Path:
        return self.root / "manifests"

    @property
    def staging(self) -> Path:
        return self.root / "staging"

    @property
    def trash(self) -> Path:
        return self.root / "trash"

    @property
    def index(self) -> Path:
        return self.root / INDEX

    def blob(self, digest: str) -> Path:
        if not is_digest(digest):
            raise ValueError(f"{digest!r} is no digest")
        return self.blobs / digest.replace(":", "-")

    def manifest(self, name: ModelName) -> Path:
        return self.manifests.joinpath(*name.path)

    def manifest_files(self) -> list[ManifestFile]:
        """Every manifest."""
        return [each for each in self._walk(self.manifests, ()) if isinstance(each, ManifestFile)]

    def strange_files(self) -> list[Path]:
        """Every file or folder below `manifests/` that Ollama would pass over."""
        return [each for each in self._walk(self.manifests, ()) if isinstance(each, Path)]

    def files_called(self, name: ModelName) -> list[ManifestFile]:
        """The manifests of this name in any case, the exact spelling first; only folders called so are listed."""
        found = [each for each in self._called(self.manifests, name, ()) if each.name.folded() == name.folded()]
        return sorted(found, key=lambda file: (file.name != name, file.name))

    def _called(self, folder: Path, name: ModelName, above: tuple[str, ...]) -> Iterator[ManifestFile]:
        wanted = name.path[len(above)].lower()
        for entry in entries(folder):
            parts = (*above, entry.name)
            if entry.name.lower() != wanted:
                continue
            if len(parts) < LEVELS:
                if entry.is_dir():
                    yield from self._called(folder / entry.name, name, parts)
            elif (known := _name_of(parts)) is not None and entry.is_file():
                yield ManifestFile(known, folder / entry.name)

    def spelling_for(self, name: ModelName) -> ModelName:
        """The name under which this model is written: as it is here in any case, else into the folders of its name.

        The cost does not grow with the models that are here. Ollama finds a model in any spelling, so the tag of a new
        one is spelled as it was asked for.
        """
        found = self.files_called(name)
        if found:
            return found[0].name
        folder, parts = self.manifests, list(name.path)
        for level, part in enumerate(parts[:-1]):
            here = tuple(entry.name for entry in entries(folder) if entry.name.isascii() and entry.is_dir())
            parts[level] = _spelling(part, here)
            folder /= parts[level]
        return ModelName(*parts)

    def _walk(self, folder: Path, above: tuple[str, ...]) -> Iterator[ManifestFile | Path]:
        for entry in entries(folder):
            parts = (*above, entry.name)
            name = _name_of(parts)
            if entry.is_dir() and len(parts) < LEVELS:
                yield from self._walk(folder / entry.name, parts)
            elif name is not None and entry.is_file():  # not a FIFO: reading one would never end
                yield ManifestFile(name, folder / entry.name)
            else:
                yield folder / entry.name

    def stored_spelling(self, name: ModelName) -> ModelName:
        """The name by which Ollama calls a model that it does not know, given those that are here.

        Ollama folds case: first a model of the same name in any spelling, else part by part over all models, where the
        exact spelling of a part wins (server/routes.go:1222-1245).
        """
        known = [file.name for file in self.manifest_files()]
        if name in known:
            return name
        for other in known:
            if other.folded() == name.folded():
                return other
        columns = zip(*(other.path for other in known), strict=True) if known else ((),) * LEVELS
        return ModelName(*(_spelling(part, column) for part, column in zip(name.path, columns, strict=True)))


def _spelling(part: str, column: tuple[str, ...]) -> str:
    if part in column:
        return part
    return next((other for other in column if other.lower() == part.lower()), part)


def _name_of(parts: tuple[str, ...]) -> ModelName | None:
    if len(parts) != LEVELS:
        return None
    try:
        name = ModelName.parse("{}/{}/{}:{}".format(*parts))
    except BadName:
        return None
    return name if name.path == parts else None


def entries(folder: Path) -> list[os.DirEntry[str]]:
    """What is in a folder, by name; nothing when it is not there (any more) or is no folder."""
    try:
        with os.scandir(folder) as listing:
            return sorted(listing, key=lambda entry: entry.name)
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise os_trouble(error, doing=f"listing {str(folder)!r}") from error


def stat_file(path: Path, *, follow: bool = True) -> os.stat_result | None:
    """The stat of a file; None when nothing is there, also behind a dangling link."""
    try:
        return path.stat(follow_symlinks=follow)
    except (FileNotFoundError, NotADirectoryError):
        return None


def bytes_on_disk(stat: os.stat_result) -> int:
    """What a file that may be sparse really takes: a pull's partial file has its full size from the first byte."""
    return min(stat.st_size, stat.st_blocks * 512)


def is_inside(path: Path, root: Path) -> bool:
    """Whether a path below `root` is still below it with every link followed."""
    between = [path, *path.parents][: len(path.parts) - len(root.parts)]
    if path.is_relative_to(root) and ".." not in path.parts and not any(each.is_symlink() for each in between):
        return True  # without a link on the way there is nothing to resolve, which looks at each folder above as well
    return path.resolve().is_relative_to(root.resolve())


def make_within(fresh: Path, folder: Path) -> None:
    """Make a folder and its parents in one that was made just now, where nothing is yet."""
    for part in folder.relative_to(fresh).parts:
        fresh /= part
        fresh.mkdir()
        fresh.chmod(0o755)


def make_folder(folder: Path, *, below: Path) -> None:
    """Make a folder and its parents under `below`, readable for every user whatever the umask says."""
    if folder.is_dir():
        return
    if folder != below:
        make_folder(folder.parent, below=below)
    try:
        folder.mkdir()
    except FileExistsError:
        if not folder.is_dir():
            raise
    else:
        folder.chmod(0o755)
