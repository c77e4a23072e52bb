"""Sends lines of a batch to the gateway, over connections that stay."""

import json
from types import TracebackType
from typing import Self

from jobs.batches.lines.line_answers import Answer, headers_of
from jobs.batches.lines.line_index import InputLine
from jobs.batches.records import BatchRecord
from jobs.core.errors import NetworkTrouble, Trouble, Unreachable
from jobs.http.httpx_alone import import_httpx_alone

import_httpx_alone()

import httpx  # noqa: E402 - without its own command line

from jobs.http.errors import translated  # noqa: E402

CONNECT_SECONDS = 10.0


class GatewayLost(NetworkTrouble):
    """The gateway is not there: what was under way is cut, and nothing is wrong with it."""


class LineClient:
    """Belongs to one event loop.

    Args:
        gateway: its address.
        record: the batch.
        answer_seconds: the longest that a line may take.

    """

    def __init__(self, gateway: str, record: BatchRecord, answer_seconds: float) -> None:
        self._record = record
        self._path = record.endpoint
        is_tls = gateway.startswith("https:")  # whom to trust takes long to read
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=None, keepalive_expiry=30)
        timeout = httpx.Timeout(answer_seconds, connect=CONNECT_SECONDS, pool=None)
        self._http = httpx.AsyncClient(base_url=gateway, limits=limits, timeout=timeout, trust_env=False, verify=is_tls)

    async def __aenter__(self) -> Self:
        await self._http.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        await self._http.__aexit__(kind, error, where)

    async def send(self, line: InputLine, shown_pass: str, *, n: int) -> Answer:
        """Send a line for the `n`th time, and wait for its answer.

        Raises:
            GatewayLost: the gateway cannot be reached, or went away meanwhile.
            Trouble: the answer was cut, or took too long.

        """
        headers = headers_of(self._record.dialect, shown_pass)
        headers["x-request-id"] = f"{self._record.id}.{line.number}.{n}"
        content = json.dumps(line.body, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass")
        doing = f"sending line {line.number} of {self._record.id}"
        try:
            with translated(doing):
                response = await self._http.post(self._path, content=content, headers=headers)
        except Unreachable as unreachable:
            raise GatewayLost(str(unreachable)) from unreachable
        except Trouble as trouble:
            if not await self._is_there():
                raise GatewayLost(f"{doing}: the gateway went away: {trouble}") from trouble
            raise
        return Answer(response.status_code, response.headers, response.content)

    async def _is_there(self) -> bool:
        """Whether the gateway takes connections: who cut a line without an answer may be gone."""
        try:
            await self._http.get("/healthz", timeout=CONNECT_SECONDS)
        except httpx.HTTPError:
            return False
        return True
