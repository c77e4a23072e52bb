"""The local home: where the one-machine stack keeps its ledger, what it last composed, and who is running it.

    ledger.sqlite   queue and dict                    up.lock        flock held for as long as `up` runs
    stack.json      what `up` last composed           weights.lock   flock held by whoever publishes or deletes
    logs/           what `up` and its servers say     keys           who may ask the gateway, a line for each
    ops/            what has left the ledger

Both tell who asked for what, so the home and its files are its owner's alone; older ones are closed when `up` starts.
It composes nothing: `app.local` writes the stack down, the command line reads it.
"""

import fcntl
import json
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from jobs.batches.limits import USUAL as USUAL_BATCHES
from jobs.batches.limits import BatchLimits
from jobs.core.clock import Clock, isoformat, parse_moment
from jobs.core.errors import BadRequest, Refused, StoreUnavailable, Trouble, is_exhausted
from jobs.core.retention import RetentionRules
from jobs.ledger.reader import LedgerReader
from jobs.registry.allowlist import ANYWHERE, Registries
from jobs.store import private_files as private
from jobs.store.files import translated
from jobs.store.sqlite import SqliteDict, SqliteQueue
from jobs.store.sqlite_reader import SqliteReader

if TYPE_CHECKING:
    from jobs.ledger.ledger import Ledger

VARIABLE = "OLLAMA_MODAL_HOME"

_TRIES = 25
_PAUSE_SECONDS = 0.02
"""Whoever asks whether `up` runs holds its lock for an instant, so a starting `up` tries again for half a second."""


@dataclass(frozen=True)
class LocalServer:
    """One Ollama server of the stack: the tier it stands for, and where it answers."""

    tier: str
    url: str


@dataclass(frozen=True)
class Stack:
    """What `up` composed. `models` is None when the directory is not ours; `why_by_server` then says why."""

    pid: int
    started_at: datetime
    simulated: bool
    servers: tuple[LocalServer, ...]
    models: Path | None
    retention: RetentionRules = field(default_factory=RetentionRules)
    """What the weights may take, and for how long."""
    gateway: str | None = None
    """Where clients ask."""
    rate_limit: int | None = None
    """Bytes per second that a pull asks for when it names no limit of its own."""
    why_by_server: str | None = None
    fleet: Path | None = None
    """The file that declares what should be here, if there is one."""
    fleet_text: str | None = None
    """What it said when `up` read it: that is what the nights follow."""
    mirror: str | None = None
    """The registry that stands for all others."""
    registries: Registries = ANYWHERE
    """Those that may be pulled from."""
    aliases: Mapping[str, str] = field(default_factory=dict)
    """The other names of models that the fleet declares."""
    batches: BatchLimits = USUAL_BATCHES
    """What is declared of batches."""

    @property
    def pull_ways(self) -> tuple[str, ...]:
        """The ways to pull that this stack has."""
        return ("registry", "server") if self.models else ("server",)

    def as_json(self) -> dict[str, Any]:
        return {
            "v": 1,
            "pid": self.pid,
            "started_at": isoformat(self.started_at),
            "simulated": self.simulated,
            "servers": [{"tier": server.tier, "url": server.url} for server in self.servers],
            "models": str(self.models) if self.models else None,
            "retention": self.retention.as_json(),
            "gateway": self.gateway,
            "rate_limit": self.rate_limit,
            "why_by_server": self.why_by_server,
            "fleet": str(self.fleet) if self.fleet else None,
            "fleet_text": self.fleet_text,
            "mirror": self.mirror,
            "registries": self.registries.as_json(),
            "aliases": dict(self.aliases),
            "batches": self.batches.as_json(),
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Self:
        return cls(
            pid=int(document["pid"]),
            started_at=parse_moment(document["started_at"]),
            simulated=bool(document["simulated"]),
            servers=tuple(LocalServer(each["tier"], each["url"]) for each in document["servers"]),
            models=Path(document["models"]) if document.get("models") else None,
            retention=RetentionRules.from_json(document["retention"]) if "retention" in document else RetentionRules(),
            gateway=document.get("gateway"),
            rate_limit=document.get("rate_limit"),
            why_by_server=document.get("why_by_server"),
            fleet=Path(document["fleet"]) if document.get("fleet") else None,
            fleet_text=document.get("fleet_text"),
            mirror=document.get("mirror"),
            registries=Registries.from_json(document.get("registries") or {}),
            aliases=dict(document.get("aliases") or {}),
            batches=BatchLimits.from_json(document.get("batches") or {}),
        )


@dataclass(frozen=True)
class Home:
    root: Path
    origin: str = f"{VARIABLE} is not set"
    """Where the path comes from, in words."""

    @property
    def lock(self) -> Path:
        return self.root / "up.lock"

    @property
    def weights_lock(self) -> Path:
        return self.root / "weights.lock"

    @property
    def keys(self) -> Path:
        return self.root / "keys"

    @property
    def batches(self) -> Path:
        """Files of batches, and what became of their lines."""
        return self.root / "batches"

    @property
    def archive(self) -> Path:
        """Where `jobs.archive.archived.archive_at` keeps what has left the ledger; not there until something has."""
        return self.root / "ops"

    @property
    def logs(self) -> Path:
        return self.root / "logs"

    @property
    def stack_file(self) -> Path:
        return self.root / "stack.json"

    def prepare(self) -> None:
        """Make the directory when it is not there; it is its owner's alone, or becomes so.

        Raises:
            BadRequest: it cannot be made, read or written.
            StoreUnavailable: the system has no descriptor left to look with.

        """
        try:
            self.root.mkdir(mode=private.FOLDER, parents=True, exist_ok=True)
            private.mend([self.root.resolve()])
            os.listdir(self.root)  # noqa: PTH208 - asks whether it can be read
        except (OSError, ValueError) as error:
            raise self._unusable(error) from error
        if not os.access(self.root, os.W_OK | os.X_OK):
            raise self._unusable(PermissionError(0, "it cannot be written"))

    def ledger(self, clock: Clock) -> "Ledger":
        """A ledger of one's own on this home's file; threads may share it, but then wait for one another.

        Raises:
            BadRequest: the home cannot be used.
            StoreTrouble: the file in it cannot.

        """
        from jobs.ledger.ledger import Ledger  # noqa: PLC0415 - whoever only reads needs no writer

        facts = self.facts()
        return Ledger(SqliteQueue(self._ledger_file, clock=clock), facts, clock)

    def reader(self, clock: Clock) -> LedgerReader:
        """The ledger, for whoever only reads it: nothing is made, and nothing changes.

        Raises:
            BadRequest: the home cannot be read.

        """
        return LedgerReader.of(self.read_facts(), clock)

    def read_facts(self) -> SqliteReader:
        """The ledger's dict, for whoever only reads it: empty where there is none. Threads may share it.

        Raises:
            BadRequest: the home cannot be read.

        """
        try:
            os.listdir(self.root)  # noqa: PTH208 - asks whether it can be read
        except FileNotFoundError:
            pass  # nobody has written anything yet
        except (OSError, ValueError) as error:
            raise self._unusable(error) from error
        return SqliteReader(self._ledger_file)

    def facts(self) -> SqliteDict:
        """The ledger's dict by itself, to be written. Threads may share it.

        Raises:
            BadRequest: the home cannot be used.
            StoreTrouble: the file in it cannot.

        """
        self.prepare()
        with translated("making the ledger"):
            private.create(self._ledger_file)  # what SQLite puts beside it is as open as this
        return SqliteDict(self._ledger_file)

    @property
    def _ledger_file(self) -> Path:
        return self.root / "ledger.sqlite"

    def _unusable(self, error: OSError | ValueError) -> Trouble:
        cause = error.strerror if isinstance(error, OSError) else error
        if isinstance(error, OSError) and is_exhausted(error):
            return StoreUnavailable(
                f"the home {str(self.root)!r} cannot be used now: {cause}", hint="raise `ulimit -n`, or ask for less"
            )
        return BadRequest(
            f"the home {str(self.root)!r} cannot be used: {cause}",
            hint=f"set {VARIABLE} to a directory that you can read and write; {self.origin}",
        )

    def read_stack(self) -> Stack | None:
        """What `up` last composed; None when it never ran here, or the file tells nothing."""
        try:
            return Stack.from_json(json.loads(self.stack_file.read_bytes()))
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def need_stack(self) -> Stack:
        """The stack that `up` composed last.

        Raises:
            Refused: there never was one.

        """
        stack = self.read_stack()
        if stack is None:
            raise Refused(f"no stack was ever started in {str(self.root)!r}", hint="start one: `ollama-modal up`")
        return stack

    def write_stack(self, stack: Stack) -> None:
        """Replace the file in one step: a reader sees the old stack or the new one.

        Raises:
            DiskFull: there is no room for it; the old one stays.
            NotWritable: it is not ours to write.

        """
        draft = self.stack_file.with_suffix(f".{os.getpid()}")
        with translated("writing down the stack"):
            try:
                with open(draft, "w", encoding="utf-8", opener=private.opener) as file:
                    file.write(json.dumps(stack.as_json(), indent=2) + "\n")
                draft.replace(self.stack_file)
            finally:
                draft.unlink(missing_ok=True)

    def up_pid(self) -> int | None:
        """The process id of the `up` that runs on this home; None when none does. 0 when it has not said yet."""
        try:
            descriptor = os.open(self.lock, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            said = os.read(descriptor, 32).strip()
            return int(said) if said.isdigit() else 0
        else:
            return None
        finally:
            os.close(descriptor)

    @contextmanager
    def held(self, clock: Clock) -> Iterator[None]:
        """Hold the lock that makes one `up` per home. It goes with the process, however that ends.

        Raises:
            Refused: another one holds it.
            DiskFull: there is no room even for our number.

        """
        self.prepare()
        with translated("locking the home"):
            private.mend(self._files())
            private.create(self.weights_lock)
            descriptor = private.opener(self.lock, os.O_RDWR | os.O_CREAT)
        try:
            self._flock(descriptor, clock)
            with translated("locking the home"):
                os.ftruncate(descriptor, 0)
                os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
            yield
        finally:
            os.close(descriptor)

    def _files(self) -> Iterator[Path]:
        """All that we keep here, and no more: whoever named this directory may have something else in it."""
        ledger = self._ledger_file.name
        yield from (self.root / name for name in (ledger, f"{ledger}-wal", f"{ledger}-shm"))
        yield from (self.lock, self.weights_lock, self.keys, *self.root.glob(f"{self.stack_file.stem}.*"), self.logs)
        yield from (path for path in self.logs.glob("*.log*") if path.is_file())

    def _flock(self, descriptor: int, clock: Clock) -> None:
        for _ in range(_TRIES):
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                clock.wait(_PAUSE_SECONDS)
            else:
                return
        raise Refused(
            f"`ollama-modal up` runs already on {str(self.root)!r}, with pid {self.up_pid()}",
            hint=f"use that one, or end it (kill {self.up_pid()}), or set {VARIABLE} to another directory",
        )


def home_of(environ: Mapping[str, str], platform: str = sys.platform) -> Home:
    """The home that the environment names, else this user's own, where the platform keeps such data.

    Raises:
        BadRequest: there is no home directory to put it in.

    """
    if value := environ.get(VARIABLE):
        path = Path(os.path.abspath(value))  # noqa: PTH100 - resolve() would follow links
        return Home(path, f"{VARIABLE} is {value!r}")
    try:
        user = Path.home()
    except RuntimeError as error:
        raise BadRequest("this user has no home directory", hint=f"set {VARIABLE}") from error
    if platform == "darwin":
        return Home(user / "Library" / "Application Support" / "ollama-modal")
    data = environ.get("XDG_DATA_HOME", "")
    # The XDG specification says that a relative path there is to be ignored.
    base = Path(data) if data.startswith("/") else user / ".local" / "share"
    return Home(base / "ollama-modal")
