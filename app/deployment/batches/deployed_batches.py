"""The batches of a deployment, for the commands of `modal run`: in its ledger, their files on their volume."""

import json
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from app.deployment.spawn_worker import spawn_worker
from app.platform.volume import RemoteVolume
from jobs.access.audit_line import Act
from jobs.batches.batch_document import document_of
from jobs.batches.batch_store import BatchStore
from jobs.batches.limits import BatchLimits
from jobs.batches.records import BatchRecord, BatchStart, FileRecord, new_batch_id, new_file_id
from jobs.cli.output import say
from jobs.core.clock import Clock
from jobs.core.errors import BadName, BadRequest, QuotaExceeded, Refused, Trouble
from jobs.core.model_name import ModelName
from jobs.core.sanitize import plain
from jobs.core.units import human_bytes
from jobs.ledger.kinds import BATCHES_LANE
from jobs.ledger.ledger import Ledger
from jobs.models.aliases import Aliases
from jobs.models.near_names import absent
from jobs.store import keys
from jobs.store.protocols import ShrinkingDict

if TYPE_CHECKING:
    from app.fleet.schema import Fleet

Document = Mapping[str, Any]


@dataclass(frozen=True)
class DeployedBatches:
    """Batches that nobody's key has posted: whoever may deploy asks, as for `pull`.

    Args:
        facts: the ledger's dict.
        ledger: the jobs.
        volume: where files of batches lie.
        fleet: what is deployed.
        clock: the time.
        who: who asks, for the record.
        acts: writes down that he does something.
        is_deployed: whether there is anybody to work on them.
        send_worker: sends one to a lane.

    """

    facts: ShrinkingDict
    ledger: Ledger
    volume: RemoteVolume
    fleet: "Callable[[], Fleet]"
    clock: Clock
    who: Callable[[], str]
    acts: Callable[[str, str], AbstractContextManager[Act]]
    is_deployed: Callable[[], bool]
    send_worker: Callable[[str], object] = spawn_worker

    @cached_property
    def _store(self) -> BatchStore:
        return BatchStore(self.facts, self.ledger, self.clock)

    @cached_property
    def _limits(self) -> BatchLimits:
        return self.fleet().batches.limits

    def get(self, id: str) -> Document:
        """
        Raises:
            NotFound: there is none.
        """
        return document_of(self._store.get(id))

    def all(self, limit: int | None) -> tuple[list[Document], bool]:
        """The newest, and whether there are more."""
        page = self._store.list(limit=limit if limit is not None else 1 << 40)
        return [document_of(each) for each in page.batches], page.has_more

    def cancel(self, id: str) -> Document:
        """
        Raises:
            NotFound: there is none.
        """
        with self.acts("cancel", id):
            cancelled = document_of(self._store.cancel(id, by=self.who()))
        self._send()
        return cancelled

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
        """Put a file of lines on the volume, and post a batch of it.

        Raises:
            Refused: nothing is deployed that could answer its lines.
            BadRequest: the file is too large.
            QuotaExceeded: it has no place beside the others.

        """
        if not self.is_deployed():
            raise Refused("nothing is deployed that could answer lines", hint="deploy it: `modal deploy -m app.deploy`")
        id = new_batch_id("openai")
        with self.acts("batch", id):
            now = self.clock.now()
            file = self._kept(pieces, filename, now)
            record = BatchRecord.of_command(
                id,
                file,
                endpoint=endpoint,
                at=now,
                expires_at=expires_at,
                start=start or self._limits.start,
                max_dollars=max_dollars,
                posted_by=self.who(),
            )
            posted = document_of(self._store.post(record))
        self._send()
        return posted

    def content(self, file_id: str) -> Iterator[bytes]:
        """The lines of a file."""
        with tempfile.TemporaryFile() as file:
            self.volume.fetch(f"files/{file_id}/content", file)
            file.seek(0)
            yield from file

    def _kept(self, pieces: Iterable[bytes], filename: str, now: datetime) -> FileRecord:
        """A file on the volume, as a gateway would have brought it."""
        limits, id = self._limits, new_file_id()
        with tempfile.TemporaryDirectory(prefix="ollama-modal-") as folder:
            content, written = Path(folder, "content"), Path(folder, "record.json")
            with content.open("xb") as file:
                for piece in pieces:
                    file.write(piece)
                    if file.tell() > limits.most_file_bytes:
                        most = human_bytes(limits.most_file_bytes)
                        raise BadRequest(f"the file is larger than {most}", hint="split it, and post a batch for each")
            size = content.stat().st_size
            self._need_room(size, limits)
            record = FileRecord(id, "", "batch", filename, size, now, now + limits.keep)
            written.write_text(json.dumps(record.as_json()), "utf-8")
            say(f"uploading {human_bytes(size)}")
            self.volume.put({f"files/{id}/content": content, f"files/{id}/record.json": written})
        return record

    def _need_room(self, size: int, limits: BatchLimits) -> None:
        used = self.volume.bytes_in("/")
        if used + size > limits.quota_bytes:
            raise QuotaExceeded(
                f"files of batches take {human_bytes(used)} of {human_bytes(limits.quota_bytes)}, and these lines"
                f" {human_bytes(size)} more",
                hint="remove files that nobody needs, or raise batches.quota_gb in fleet.toml and deploy",
            )

    def _send(self) -> None:
        try:
            self.send_worker(BATCHES_LANE)
        except Trouble as trouble:
            say(f"no worker could be sent: {plain(trouble)}")
            say("hint: the next tick sends one")

    # -- models --------------------------------------------------------------------------------------------------------

    @cached_property
    def _known(self) -> Mapping[str, Any] | None:
        """What is on the volume of weights, by name; None where nobody has told."""
        known: Mapping[str, Any] | None = self.facts.get(keys.WEIGHTS_MODELS)
        return known

    @cached_property
    def aliases(self) -> Aliases:
        return self.fleet().named.with_made(self.facts.get(keys.ALIASES))

    def model_of(self, text: str) -> ModelName:
        """The model that is asked for by this name."""
        name = ModelName.parse(text)
        if self._known is not None and str(name.folded()) in self._known:
            return name
        alias = self.aliases.of(name)
        return alias.target if alias is not None else name

    def missing(self, model: str) -> Trouble | None:
        """Why a model cannot answer; None where it is here, by whatever name, or nobody can tell."""
        if self._known is None:
            return None
        try:
            return absent(self.model_of(model), map(ModelName.parse, self._known))
        except BadName as error:
            raise BadRequest(f"{model!r} is no model's name: {error}") from error
