"""Posts jobs for callers: who may, in whose name, and who is sent to work on them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fastapi import Request
from loguru import logger

from app.gateway.clerks import Clerks
from app.gateway.keys import ADMIN, CHAT, Caller
from app.gateway.office import Office
from jobs.ledger import Ledger, Posted
from jobs.names import ModelName
from jobs.record import Job

ALL = "*"
"""The subject of a job about every model."""


def reader(request: Request) -> Caller:
    """Whoever may read."""
    caller: Caller = request.state.caller
    caller.need(CHAT, ADMIN)
    return caller


def changer(request: Request) -> Caller:
    """Whoever may change something."""
    caller: Caller = request.state.caller
    caller.need(ADMIN)
    return caller


@dataclass(frozen=True)
class Poster:
    """All of it raises Forbidden when the key may not use the model; of a pull, Unlisted when its registry is not."""

    office: Office
    clerks: Clerks

    async def post(
        self, caller: Caller, kind: str, name: ModelName | None, request: Mapping[str, Any], attempts: int | None = None
    ) -> Posted:
        """Post a job about a model, or about all of them; one that is under way is shared."""
        caller.need_model(name)
        self._need_registry(kind, name)
        subject = ALL if name is None else str(name.folded())
        return await self.clerks.do(
            lambda ledger: self._rung(ledger.post(kind, subject, request, by=caller.name, attempts=attempts))
        )

    async def retry(self, caller: Caller, id: str) -> Posted:
        def retry(ledger: Ledger) -> Posted:
            job = ledger.get(id)
            caller.need_model(_about(job))
            self._need_registry(job.kind, _about(job))
            return self._rung(ledger.retry(id, by=caller.name))

        return await self.clerks.do(retry)

    async def cancel(self, caller: Caller, id: str) -> Job:
        def cancel(ledger: Ledger) -> Job:
            caller.need_model(_about(ledger.get(id)))
            return ledger.cancel(id, by=caller.name)

        return await self.clerks.do(cancel)

    def _need_registry(self, kind: str, name: ModelName | None) -> None:
        if kind == "pull" and name is not None:
            self.office.registries.need(name)

    def _rung(self, posted: Posted) -> Posted:
        """Send somebody. A bell that cannot be rung loses nothing: the next sweep rings again."""
        job = posted.job
        logger.info("job {} {}: {} {}", job.id, "joined" if posted.attached else "posted", job.kind, job.subject)
        if not job.has_ended:
            try:
                self.office.ring(job.lane)
            except Exception as error:  # noqa: BLE001 - the job is posted, whatever the platform says now
                logger.warning("lane {} could not be rung: {}: {}", job.lane, type(error).__name__, error)
        return posted


def _about(job: Job) -> ModelName | None:
    return None if job.subject == ALL else ModelName.parse(job.subject)
