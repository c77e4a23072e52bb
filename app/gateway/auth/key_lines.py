"""The keys of lines: those of a secret, which stay as they are, and those of a file, which is read when it changes."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from loguru import logger

from app.gateway.auth.keys import Keys
from jobs.core.errors import Trouble, os_trouble


class KeyLines(Protocol):
    """Where the keys of lines come from."""

    def read(self) -> Keys:
        """Those that count now: the same object for as long as they are the same."""

    @property
    def trouble(self) -> str | None:
        """What is wrong with the lines as they are now, so that earlier ones count."""


class FixedLines:
    """Lines that stay as they are."""

    trouble: str | None = None

    def __init__(self, keys: Keys) -> None:
        self._keys = keys

    def read(self) -> Keys:
        return self._keys


class KeyFile:
    """The lines of a file, and others that stay as they are. One that becomes wrong counts as it was before, but for
    keys of which nothing stands there any more, and it is said.

    One thread reads at a time.

    Args:
        path: of the file, which need not be there.
        others: texts of lines, by where they come from.

    Raises:
        BadRequest: a line is wrong at the start.
        NotWritable: the file is not ours to read.

    """

    def __init__(self, path: Path, others: Mapping[str, str]) -> None:
        self._path = path
        self._others = others
        #: Replaced by whoever reads; `trouble` may be read by any thread.
        self._stamp = _stamp(path)
        self._keys = self._parsed()
        self.trouble: str | None = None

    def read(self) -> Keys:
        stamp = _stamp(self._path)
        if stamp == self._stamp:
            return self._keys
        try:
            self._keys = self._parsed()
        except Trouble as trouble:
            self._keys = self._still_there()
            self.trouble = f"{trouble}; the keys that still stand in this file count as they were before"
            logger.error("{}", self.trouble)
        else:
            self.trouble = None
            logger.info("{} has changed, and is read again: its keys count from now on", self._path)
        self._stamp = stamp
        return self._keys

    def _still_there(self) -> Keys:
        """The keys of before, but for those whose lines are gone: whoever took one out meant it, whatever is wrong."""
        try:
            text = _text(self._path)
        except Trouble:  # nobody knows what stands there
            return self._keys
        lines = [line.partition("#")[0] for each in (text, *self._others.values()) for line in each.splitlines()]
        words = {word for line in lines for word in line.split()}
        return Keys(key for key in self._keys.all if {key.caller.name, key.proof} & words)

    def _parsed(self) -> Keys:
        return Keys.gather({str(self._path): _text(self._path), **self._others})


def _stamp(path: Path) -> object:
    """Differs when the file has changed: also when another one took its place."""
    try:
        found = path.stat()
    except OSError as error:
        return error.errno
    return found.st_mtime_ns, found.st_ctime_ns, found.st_size, found.st_ino


def _text(path: Path) -> str:
    try:
        return path.read_text("utf-8", errors="replace")
    except FileNotFoundError:
        return ""
    except OSError as error:
        raise os_trouble(error, doing="reading the keys") from error


def texts_of(environ: Mapping[str, str] = os.environ, *names: str) -> dict[str, str]:
    """Lines in variables, by the name of each."""
    return {name: environ.get(name, "") for name in names}
