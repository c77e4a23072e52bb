"""The batches of this machine, for the commands: in its ledger, their files in its home."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any, cast

from jobs.batches.batch_document import document_of
from jobs.batches.batch_store import BatchStore
from jobs.batches.files.storage import BatchStorage
from jobs.batches.limits import USUAL, BatchLimits
from jobs.batches.records import BatchRecord, BatchStart, new_batch_id
from jobs.core.clock import Clock
from jobs.core.errors import BadName, BadRequest, Trouble
from jobs.core.model_name import ModelName
from jobs.home.home import Home
from jobs.ledger.reader import LedgerReader

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from jobs.access.audit_line import Act
    from jobs.ledger.ledger import Ledger
    from jobs.store.protocols import ShrinkingDict

Document = Mapping[str, Any]

PIECE = 1 << 20


@dataclass(frozen=True)
class _OnlyRead:
    """As much of a ledger as it takes to tell how batches stand."""

    reader: LedgerReader


class LocalBatches:
    """Batches that nobody's key has posted: the user of this machine asks, as for `pull`.

    Args:
        home: of this machine.
        clock: the time.
        who: who asks, for the record.
        acts: writes down that he does something.

    """

    def __init__(
        self,
        home: Home,
        clock: Clock,
        who: Callable[[], str],
        acts: "Callable[[str, str], AbstractContextManager[Act]]",
    ) -> None:
        self._home, self._clock, self._who, self._acts = home, clock, who, acts

    @cached_property
    def _reading(self) -> BatchStore:
        """For whoever only reads: it makes no home, and changes no file."""
        ledger = cast("Ledger", _OnlyRead(self._home.reader(self._clock)))
        return BatchStore(cast("ShrinkingDict", self._home.read_facts()), ledger, self._clock)

    @cached_property
    def _store(self) -> BatchStore:
        return BatchStore(self._home.facts(), self._home.ledger(self._clock), self._clock)

    @cached_property
    def _storage(self) -> BatchStorage:
        return BatchStorage(self._home.batches, self._clock, quota_bytes=self._limits.quota_bytes)

    @cached_property
    def _limits(self) -> BatchLimits:
        """As `up` read them last."""
        stack = self._home.read_stack()
        return stack.batches if stack else USUAL

    def get(self, id: str) -> Document:
        """
        Raises:
            NotFound: there is none.
        """
        return document_of(self._reading.get(id))

    def all(self, limit: int | None) -> tuple[list[Document], bool]:
        """The newest, and whether there are more."""
        page = self._reading.list(limit=limit if limit is not None else 1 << 40)
        return [document_of(each) for each in page.batches], page.has_more

    def cancel(self, id: str) -> Document:
        """
        Raises:
            NotFound: there is none.
        """
        with self._acts("cancel", id):
            return document_of(self._store.cancel(id, by=self._who()))

    def post(
        self,
        pieces: Iterable[bytes],
        *,
        filename: str,
        endpoint: str,
        expires_at: datetime | None,
        start: BatchStart | None,
        max_dollars: float | None,
    ) -> Document:
        """Keep a file of lines, and post a batch of it.

        Raises:
            BadRequest: the file is too large.
            DiskFull: there is no room for it.

        """
        id = new_batch_id("openai")
        with self._acts("batch", id):
            now = self._clock.now()
            most, kept_until = self._limits.most_file_bytes, now + self._limits.keep
            with self._storage.begin("", filename, expires_at=kept_until, most_bytes=most) as writer:
                for piece in pieces:
                    writer.write(piece)
                file = writer.finish()
            record = BatchRecord.of_command(
                id,
                file,
                endpoint=endpoint,
                at=now,
                expires_at=expires_at,
                start=start or self._limits.start,
                max_dollars=max_dollars,
                posted_by=self._who(),
            )
            return document_of(self._store.post(record))

    def content(self, file_id: str) -> Iterator[bytes]:
        """The lines of a file."""
        at, rest = 0, b""
        while piece := self._storage.read(file_id, at, PIECE):
            at += len(piece)
            *lines, rest = (rest + piece).split(b"\n")
            yield from (line + b"\n" for line in lines)
        if rest:
            yield rest

    # -- models --------------------------------------------------------------------------------------------------------

    @cached_property
    def _names(self) -> list[ModelName] | None:
        from jobs.home.names_here import names_here  # noqa: PLC0415 - whoever lists batches needs none of it

        return names_here(self._home, self._clock, trash=False)

    def missing(self, model: str) -> Trouble | None:
        """Why a model cannot answer; None where it is here, by whatever name, or nobody can tell."""
        from jobs.home.status import aliases_here  # noqa: PLC0415 - as above
        from jobs.models.near_names import absent  # noqa: PLC0415

        try:
            name = ModelName.parse(model)
        except BadName as error:
            raise BadRequest(f"{model!r} is no model's name: {error}") from error
        stack = self._home.read_stack()
        if self._names is None or stack is None:
            return None
        missing = absent(name, self._names)
        alias = aliases_here(self._home, stack).of(name) if missing is not None else None
        return absent(alias.target, self._names) if alias is not None else missing
