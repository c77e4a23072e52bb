"""Sends lines of a batch to the gateway, over connections that stay."""

import json
from types import TracebackType
from typing import Self

from jobs.batches.lines.line_answers import Answer, headers_of
from jobs.batches.lines.line_index import InputLine
from jobs.batches.records import BatchRecord
from jobs.core.errors import NetworkTrouble, Trouble, Unreachable
from jobs.http.libraries_alone import import_libraries_alone

import_libraries_alone()

import httpx  # noqa: E402 - without its own command line

from jobs.http.errors import translated  # noqa: E402

CONNECT_SECONDS = 10.0

KEPT_SECONDS = 30.0
"""For so long an idle connection stays."""


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
        self._line_url = httpx.URL(f"{gateway.rstrip('/')}{record.endpoint}")
        self._health_url = httpx.URL(f"{gateway.rstrip('/')}/healthz")
        self._limits = _timeouts(answer_seconds)
        self._tls = httpx.create_ssl_context() if gateway.startswith("https:") else None
        #: Connections that no line uses. Each is a pool of its own: one pool looks through all of its connections for
        #: each request.
        self._idle: list[httpx.AsyncHTTPTransport] = []

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        idle, self._idle = self._idle, []
        for connection in idle:
            await connection.aclose()

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
                request = httpx.Request(
                    "POST", self._line_url, content=content, headers=headers, extensions=self._limits
                )
                response = await self._answered(request)
        except Unreachable as unreachable:
            raise GatewayLost(str(unreachable)) from unreachable
        except Trouble as trouble:
            if not await self._is_there():
                raise GatewayLost(f"{doing}: the gateway went away: {trouble}") from trouble
            raise
        return Answer(response.status_code, response.headers, response.content)

    async def _answered(self, request: httpx.Request) -> httpx.Response:
        connection = self._idle.pop() if self._idle else self._new()
        try:
            response = await connection.handle_async_request(request)
            try:
                await response.aread()
            finally:
                await response.aclose()
        except BaseException:
            await connection.aclose()
            raise
        self._idle.append(connection)
        return response

    def _new(self) -> httpx.AsyncHTTPTransport:
        limits = httpx.Limits(max_connections=1, max_keepalive_connections=1, keepalive_expiry=KEPT_SECONDS)
        return httpx.AsyncHTTPTransport(verify=self._tls or False, trust_env=False, limits=limits)

    async def _is_there(self) -> bool:
        """Whether the gateway takes connections: who cut a line without an answer may be gone."""
        try:
            await self._answered(httpx.Request("GET", self._health_url, extensions=_timeouts(CONNECT_SECONDS)))
        except httpx.HTTPError:
            return False
        return True


def _timeouts(seconds: float) -> dict[str, dict[str, float]]:
    return {"timeout": {"connect": CONNECT_SECONDS, "pool": CONNECT_SECONDS, "read": seconds, "write": seconds}}
