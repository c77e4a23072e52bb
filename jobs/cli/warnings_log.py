"""Of what happens inside a command, tells warnings alone, never with the values of variables: they may be secrets.

Loguru takes as long to import as most commands to run, and those that only read ledger and queue log nothing. So it is
set up in the moment somebody imports it, before anybody can log.
"""

import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import TYPE_CHECKING

from jobs.cli.output import say
from jobs.core.sanitize import plain

if TYPE_CHECKING:
    from loguru import Record

LOGURU = "loguru"


def log_warnings() -> None:
    """From now on say what is logged as a warning or worse, and nothing else."""
    if LOGURU in sys.modules:
        _set_up()
    elif not any(isinstance(finder, _LoguruFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _LoguruFinder())


def _set_up() -> None:
    from loguru import logger  # noqa: PLC0415 - see above

    logger.remove()
    logger.add(
        lambda line: say(str(line).rstrip()), level="WARNING", format=_as_warning, diagnose=False, backtrace=False,
    )  # fmt: skip


def _as_warning(record: "Record") -> str:
    """The message alone; an exception's trace is for the log."""
    record["extra"]["_said"] = plain(record["message"])
    return "warning: {extra[_said]}"


class _LoguruFinder(MetaPathFinder):
    """Finds loguru as ever, with a loader that sets it up; once."""

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None,
        target: ModuleType | None = None,
    ) -> ModuleSpec | None:
        if fullname != LOGURU:
            return None
        sys.meta_path.remove(self)
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = _LoguruLoader(spec.loader)
        return spec


class _LoguruLoader(Loader):
    def __init__(self, real: Loader) -> None:
        self._real = real

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._real.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self._real.exec_module(module)
        _set_up()
