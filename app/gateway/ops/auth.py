"""Lets callers of the ops API in: by key, within its limits, or not at all. Unknown paths are behind it as well."""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.gateway.auth.admission import Header, TellsLeft, tells_nothing
from app.gateway.auth.fair_shares import KeyCount, Shares
from app.gateway.auth.keys import Key
from app.gateway.auth.live_keys import LiveKeys, Stop
from app.gateway.auth.rate_limits import BUSY, RateLimits
from app.gateway.auth.signatures import SignedRequest
from app.gateway.protocol.body import SECONDS, bounded
from app.gateway.protocol.errors import TooLarge, TooSlow, body_of, headers_of, status_of
from jobs.core.clock import Clock
from jobs.core.errors import Trouble, Unauthorized

OPEN = frozenset({"/healthz"})
"""What needs no key: it says nothing but that this process answers."""


BODY_BYTES = 64 * 1024
"""What is posted here is a few names; it is read on the event loop, where more would hold up all others."""

AT_ONCE = 64
"""Requests that are worked on: several for each thread that reads the ledger, and no long queue before those."""


def concurrency_limit(keys: KeyCount) -> Shares:
    """How many requests threads may have to work for at once."""
    return Shares(
        "requests about the service under way",
        AT_ONCE,
        keys=keys,
        hint="wait for one of them to end",
        retry_after=BUSY,
    )


@dataclass(frozen=True)
class OpsAuth:
    """Stands before `inside`; a caller whom the gateway has let in already (`state["caller"]`) is not asked again.

    Behind it, `state["end_work"]` takes the request out of those that are worked on: a follower of a job calls it when
    nothing is left to do but wait.
    """

    inside: ASGIApp
    keys: LiveKeys
    limits: RateLimits
    clock: Clock
    concurrency: Shares
    told: TellsLeft = tells_nothing
    body_seconds: float = SECONDS

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        state = scope.setdefault("state", {})
        if scope["type"] != "http" or scope["path"] in OPEN:
            await self.inside(scope, _bounded(receive, self.body_seconds), send)
            return
        ended: list[Unauthorized] = []
        with ExitStack() as leaving:
            try:
                if "caller" not in state:
                    self.keys.is_used = True
                    now = self.clock.now()
                    key = await self.keys.key_of(scope["headers"], now, lambda: SignedRequest.of(scope))
                    caller = state["caller"] = key.caller_at(now)
                    if (told := self.told(caller, "ollama")) is not None:
                        send = _telling(send, told)
                    leaving.callback(self.limits.enter(state["caller"]))
                    leaving.callback(self._kept(key, ended))
                state["end_work"] = self.concurrency.take(state["caller"].name)
                leaving.callback(state["end_work"])
            except Trouble as trouble:
                answer = JSONResponse(body_of(trouble), status_of(trouble), headers_of(trouble))
                await answer(scope, receive, send)
                return
            try:
                await self.inside(scope, _bounded(receive, self.body_seconds), send)
            except asyncio.CancelledError:
                if not ended:
                    raise  # else its key is good no more, and its answer ends without its end

    def _kept(self, key: Key, ended: list[Unauthorized]) -> Callable[[], None]:
        """Have the request, which is this task's, ended when its key is good no more; call what is returned after it.

        Args:
            key: whose request it is.
            ended: gets why.

        """
        task = asyncio.current_task()
        assert task is not None

        def stop(why: Unauthorized) -> None:
            ended.append(why)
            task.cancel()

        self.keys.under_way[stop] = key
        return lambda: self._forgotten(stop)

    def _forgotten(self, stop: Stop) -> None:
        self.keys.under_way.pop(stop, None)


def _telling(send: Send, told: Callable[[], Sequence[Header]]) -> Send:
    """`send`, with what is left of the key's limits among the headers of the answer."""

    async def send_with_left(message: Message) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message.get("headers", ()), *told()]}
        await send(message)

    return send_with_left


def _bounded(receive: Receive, seconds: float) -> Receive:
    """`receive`, but a body that is too long or too slow ends with 413 or 408 as soon as it is."""
    body = bounded(receive, BODY_BYTES, seconds)

    async def receive_some() -> Message:
        try:
            return await body()
        except (TooLarge, TooSlow) as trouble:  # FastAPI would make a 400 of whatever else is raised here
            raise HTTPException(status_of(trouble), str(trouble), headers_of(trouble)) from trouble

    return receive_some
