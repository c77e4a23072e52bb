"""A copy of all keys in a file: on a deployment's volume, and in the home of one machine.

A deployment's Dict forgets what nobody touches for seven days, and may be deleted; a file may be. Whichever is lost,
the other gives it back. Both are put together version by version (`key_records`), so a copy that is behind revives
nothing that the store knows to be revoked. What was revoked after the copy was last written is revived only if the
store is lost, all of it, before the copy is written again and while no gateway runs that knows of it.

That the file is there says that keys were made here once: then nobody is let in without one.
"""

import fcntl
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from jobs.access.keys.key_store import SUPERSEDED_FOR, KeysFound, found_in, read_keys, restore
from jobs.core import foreign
from jobs.core.clock import isoformat
from jobs.core.errors import Corrupt
from jobs.store import keys
from jobs.store import private_files as private
from jobs.store.files import flush_folder, translated
from jobs.store.protocols import ShrinkingDict

REWRITTEN_AFTER = timedelta(hours=12)
"""So each night writes the copy anew, and the entries, whatever else wrote it when something changed."""

FOLDER, NAME = "ops", "keys.json"  # beside the archive

_VERSION = 1


def copy_at(root: Path) -> Path:
    """The copy of the volume that is mounted there, or of the home."""
    return root / FOLDER / NAME


@dataclass(frozen=True)
class KeysCopy:
    """What a copy has.

    Args:
        is_there: keys were made here once.
        at: when it was written; None where it is not there, or cannot be read.
        found: the keys.

    """

    is_there: bool = False
    at: datetime | None = None
    found: KeysFound = field(default_factory=KeysFound)


def read_copy(path: Path) -> KeysCopy:
    """The copy; one that cannot be read has no keys, but is there.

    Raises:
        NotWritable: it is not ours to read.
        DiskFailed: the disk failed.

    """
    with translated("reading the copy of the keys"):
        try:
            raw = path.read_bytes()
        except FileNotFoundError:
            return KeysCopy()
    try:
        document = foreign.fields(foreign.document(raw, "the copy of the keys"))
    except Corrupt:
        return KeysCopy(is_there=True)
    at = foreign.moment(document.get("at"))
    return KeysCopy(is_there=True, at=at, found=found_in(foreign.fields(document.get("keys")).items()))


def keep_keys(
    facts: ShrinkingDict, path: Path, now: datetime, commit: Callable[[], object], *, lock: Path | None = None
) -> list[str]:
    """Bring the copy and the store up to date with one another; the names of keys that the store had lost.

    The copy is written where something has changed, and each night; then the entries as well, so that a Dict keeps
    them. What is superseded or forgotten for good goes. Whoever is killed anywhere in this leaves nothing worse.

    Args:
        facts: the ledger's dict.
        path: of the copy.
        now: the time.
        commit: has what was written there last.
        lock: held meanwhile, so that two processes do not write one over the other; beside the copy when left out.

    Raises:
        Trouble: the disk or the store fails.

    """
    with translated("keeping a copy of the keys"), _locked(path, lock):
        copy = read_copy(path)
        stored = read_keys(facts)
        known = stored.joined(copy.found)
        if known.is_empty and (copy.at is not None or not copy.is_there):
            return []
        kept = known.remembered(now)
        is_due = copy.at is None or not timedelta(0) <= now - copy.at < REWRITTEN_AFTER
        if not known.is_empty and (is_due or kept.numbers != copy.found.numbers):
            _write(path, kept, now)
            commit()
        lost = restore(facts, copy.found.beyond(stored, now))
        if is_due:
            facts.update(kept.entries())
        facts.remove_all(_passed(stored, now))
        return lost


def _passed(stored: KeysFound, now: datetime) -> Iterator[str]:
    """The entries that say nothing any more. Of a key that is forgotten the last one goes last."""
    for key in stored.older:
        record = stored.records.get(key.removeprefix(keys.KEY).rpartition("/")[0])
        if record is not None and now - record.changed_at > SUPERSEDED_FOR:
            yield key
    yield from (each.key for each in stored.records.values() if each.is_forgotten(now))


def _write(path: Path, kept: KeysFound, now: datetime) -> None:
    document: dict[str, Any] = {"v": _VERSION, "at": isoformat(now), "keys": kept.entries()}
    draft = path.with_suffix(f".{os.getpid()}")
    try:
        with open(draft, "w", encoding="utf-8", opener=private.opener) as file:
            file.write(json.dumps(document, indent=1, sort_keys=True) + "\n")
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
    flush_folder(path.parent)


@contextmanager
def _locked(path: Path, lock: Path | None) -> Iterator[None]:
    path.parent.mkdir(mode=private.FOLDER, parents=True, exist_ok=True)
    descriptor = private.opener(lock or path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
