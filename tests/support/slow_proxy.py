"""A proxy in front of a gateway: below a folder if that is wanted, and slow where a test says so.

It passes on what it is asked, without the folder, and what is answered piece by piece.
"""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import httpx
from starlette.types import Receive, Scope, Send

from tests.support.ops_api import served
from tests.support.waiting import PATIENCE

OWN = {b"host", b"connection", b"transfer-encoding", b"content-length", b"keep-alive"}


@contextmanager
def slow_proxy(url: str, delay: Callable[[str], float] = lambda _: 0.0, *, folder: str = "") -> Iterator[str]:
    """Its address.

    Args:
        url: of the gateway.
        delay: by how many seconds the answer at a path comes later.
        folder: below which the gateway is to be found, as `/llm`.

    """

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"].removeprefix(folder)
        if scope["path"] == path and folder:
            await send({"type": "http.response.start", "status": 404, "headers": []})
            await send({"type": "http.response.body", "body": b"this is not the gateway's"})
            return
        await asyncio.sleep(delay(path))
        body = b""
        while (message := await receive())["type"] == "http.request":
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        query = f"?{scope['query_string'].decode()}" if scope["query_string"] else ""
        headers = [(name, value) for name, value in scope["headers"] if name not in OWN]
        async with (
            httpx.AsyncClient(base_url=url, timeout=PATIENCE, trust_env=False) as client,
            client.stream(scope["method"], f"{path}{query}", content=body, headers=headers) as answer,
        ):
            told = [
                (name, value) for name, value in answer.headers.raw if name.lower() not in OWN - {b"content-length"}
            ]
            await send({"type": "http.response.start", "status": answer.status_code, "headers": told})
            pump, gone = asyncio.ensure_future(_pump(answer, send)), asyncio.ensure_future(_left(receive))
            await asyncio.wait({pump, gone}, return_when=asyncio.FIRST_COMPLETED)
            for each in (pump, gone):
                each.cancel()

    with served(app) as proxy:
        yield proxy + folder


async def _pump(answer: httpx.Response, send: Send) -> None:
    async for piece in answer.aiter_raw():
        await send({"type": "http.response.body", "body": piece, "more_body": True})
    await send({"type": "http.response.body", "body": b""})


async def _left(receive: Receive) -> None:
    """Until whoever asked has left."""
    while (await receive())["type"] != "http.disconnect":
        pass
