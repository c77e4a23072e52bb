"""Where a pull gathers its bytes until they are published: one folder per subject and holder.

A new attempt takes over what an earlier one left by renaming its folder. That is the fence: an older holder that wakes
up finds its paths gone, and can neither go on nor publish. Nothing here touches `blobs/` or `manifests/`.
"""

import errno
import hashlib
import os
import re
import shutil
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from stat import S_ISDIR
from typing import TYPE_CHECKING

from jobs.core.clock import moment_of
from jobs.core.errors import Fenced
from jobs.weights.layout import bytes_on_disk, entries, make_folder, stat_file
from jobs.weights.manifest import Layer, is_digest

if TYPE_CHECKING:
    from jobs.ledger.job import Job  # a server's container imports this file, and knows no jobs

RANGES = ".ranges"
"""Suffix of the journal beside a staged blob; data without its journal is data nobody can vouch for."""

_RELEASED = "released-"
_DISCARDED = "~"  # no slug holds this letter, so nobody takes such a folder over
_HOLDER = re.compile(r"[A-Za-z0-9_.-]{1,80}")
_TAKEN = ".taken"


def slug(subject: str) -> str:
    """A folder name for a subject: readable at the front, told apart by the hash at the end, 114 bytes at most.

    Two subjects never share one, also where the file system folds case, and none is the beginning of another with `@`.
    """
    readable = re.sub(r"[^A-Za-z0-9_.-]+", "_", subject)[:80].strip(".") or "_"
    return f"{readable}-{hashlib.sha256(subject.encode()).hexdigest()[:32]}"


def staging_subject(job: "Job") -> str:
    """Under which name the bytes of a job are staged: the same for every attempt and for a retry."""
    return f"{job.kind} {job.subject}"


@dataclass(frozen=True)
class StagingFolder:
    """A staging folder as the survey lists it; `holder` is empty when it was released or discarded."""

    path: Path
    slug: str
    holder: str
    size: int
    modified_at: datetime


@dataclass(frozen=True)
class Staging:
    """One holder's own folder. It may be taken away at any moment: whoever finds it gone is fenced."""

    subject: str
    holder: str
    folder: Path
    #: Digests; the fetch's hashing thread adds, and the task's thread reads when the fetch has ended.
    _settled: set[str] = field(default_factory=set, compare=False, repr=False)

    def path(self, digest: str) -> Path:
        """Where the bytes of this blob belong. Its journal is the same path and `.ranges`."""
        if not is_digest(digest):
            raise ValueError(f"{digest!r} is no digest")
        return self.folder / digest.replace(":", "-")

    def settle(self, digest: str) -> None:
        """State that this blob is staged in full and its bytes were hashed: only then it may be published.

        A staged file has its full size from the first byte, so nobody can tell that from outside.
        """
        self._settled.add(digest)

    def is_settled(self, layer: Layer) -> bool:
        """Whether this blob is staged, of the right size, and vouched for by this holder."""
        stat = stat_file(self.path(layer.digest), follow=False)
        return stat is not None and stat.st_size == layer.size and layer.digest in self._settled

    def bytes_held(self) -> int:
        """What earlier attempts have left here, in bytes on disk."""
        return measured(self.folder)[0]

    def hold(self) -> None:
        """Raise Fenced when the folder was taken over."""
        if not self.folder.is_dir():
            raise Fenced(f"the staging of {self.subject!r} was taken over from {self.holder!r}")

    def discard(self) -> None:
        """Remove the folder and all that was fetched; nothing happens when it was taken over already.

        It is renamed first, so that nobody can take it over while its files go.
        """
        doomed = self.folder.with_name(f"{_DISCARDED}{self.folder.name}")
        try:
            _rename_over(self.folder, doomed)
        except FileNotFoundError:
            return
        shutil.rmtree(doomed, ignore_errors=True)  # whoever stages next sweeps what is left


def _rename_over(folder: Path, doomed: Path) -> None:
    try:
        folder.rename(doomed)
    except OSError as error:  # this holder was killed while it discarded, and has come again since
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        shutil.rmtree(doomed, ignore_errors=True)
        folder.rename(doomed)


def take_over(staging: Path, subject: str, holder: str) -> Staging:
    """Give `holder` the folder of this subject, with everything that earlier holders left.

    Any number of leftovers is joined: of two copies of a blob the fuller one stays.
    """
    if not _HOLDER.fullmatch(holder) or holder.startswith(_RELEASED):
        raise ValueError(f"{holder!r} does not name a holder: letters, digits, '_', '.' and '-', 80 at most")
    own = staging / f"{slug(subject)}@{holder}"
    for entry in entries(staging):
        if entry.name.startswith(_DISCARDED):  # its holder was killed while it discarded
            shutil.rmtree(staging / entry.name, ignore_errors=True)
    try:
        for other in _folders(staging, subject):
            if other != own and (own.exists() or not _renamed(other, own)):
                _join_from(other, own)
        _join_left(own)  # an earlier start of this holder was killed while it joined
        make_folder(own, below=staging)
    except FileNotFoundError as error:
        raise Fenced(f"the staging of {subject!r} was taken over from {holder!r}") from error
    return Staging(subject, holder, own)


def release(staging: Path, subject: str) -> int:
    """Take the folders of this subject from whoever holds them, keeping the bytes for the next; how many there were."""
    count = 0
    for folder in _folders(staging, subject):
        if folder.name.rpartition("@")[2].startswith(_RELEASED):
            continue
        number = 1
        while (free := folder.with_name(f"{slug(subject)}@{_RELEASED}{number}")).exists():
            number += 1
        count += _renamed(folder, free)
    return count


def folders(staging: Path) -> list[StagingFolder]:
    """All staging folders, with what they take."""
    return [_folder(staging / entry.name) for entry in entries(staging) if _is_folder(entry)]


def strange_files(staging: Path) -> list[Path]:
    """What else lies around there."""
    return [staging / entry.name for entry in entries(staging) if not _is_folder(entry)]


def _is_folder(entry: os.DirEntry[str]) -> bool:
    return "@" in entry.name and entry.is_dir(follow_symlinks=False)


def _folder(path: Path) -> StagingFolder:
    head, _, holder = path.name.rpartition("@")
    is_held = not holder.startswith(_RELEASED) and not head.startswith(_DISCARDED)
    size, changed = measured(path)
    return StagingFolder(
        path=path,
        slug=head.removeprefix(_DISCARDED),
        holder=holder if is_held else "",
        size=size,
        modified_at=moment_of(changed),
    )


def measured(path: Path) -> tuple[int, float]:
    """Bytes a file or tree takes on disk, and when anything in it last changed; links are not followed."""
    stat = stat_file(path, follow=False)
    if stat is None:
        return 0, 0.0
    if not S_ISDIR(stat.st_mode):
        return bytes_on_disk(stat), stat.st_mtime
    below = [measured(path / entry.name) for entry in entries(path)]
    return sum(size for size, _ in below), max([stat.st_mtime, *(changed for _, changed in below)])


def _folders(staging: Path, subject: str) -> list[Path]:
    prefix = f"{slug(subject)}@"
    return [
        staging / entry.name
        for entry in entries(staging)
        if entry.name.startswith(prefix) and entry.is_dir(follow_symlinks=False)
    ]


def _renamed(source: Path, target: Path) -> bool:
    """Whether the rename was ours; false when somebody else was faster."""
    try:
        source.rename(target)
    except FileNotFoundError:
        return False
    return True


def _join_from(other: Path, own: Path) -> None:
    _join_left(own)
    if _renamed(other, own / _TAKEN):
        _join_left(own)


def _join_left(own: Path) -> None:
    """Move into `own` every blob that is fuller in what it has taken, then drop the rest.

    Order matters when it is cut short: a journal must never stand beside data it does not describe.
    """
    taken = own / _TAKEN
    if not taken.is_dir():
        return
    _join_left(taken)
    for entry in entries(taken):
        theirs, ours = taken / entry.name, own / entry.name
        journal, our_journal = taken / (entry.name + RANGES), own / (entry.name + RANGES)
        if not is_digest(entry.name.replace("-", ":", 1)) or not journal.is_file():
            continue
        if ours.exists() and our_journal.exists() and _fullness(ours) >= _fullness(theirs):
            continue
        our_journal.unlink(missing_ok=True)
        theirs.replace(ours)
        journal.replace(our_journal)
    shutil.rmtree(taken)


def _fullness(path: Path) -> int:
    stat = stat_file(path, follow=False)
    return 0 if stat is None else bytes_on_disk(stat)
