"""Answers that may be long, made beside the event loop: what takes longer, the more models and jobs there are."""

import asyncio
from collections.abc import Callable
from typing import Any

from starlette.responses import Response

from jobs.core.json_text import json_bytes

JSON = "application/json"


async def json_in_thread(make: Callable[..., Any], *args: Any) -> bytes:
    """The JSON of what this makes, called in a thread."""
    return await asyncio.to_thread(lambda: json_bytes(make(*args)))


async def json_response(make: Callable[..., Any], *args: Any) -> Response:
    """The answer with the JSON of what this makes, called in a thread."""
    return response_of(await json_in_thread(make, *args))


def response_of(json: bytes) -> Response:
    """The answer with this JSON."""
    return Response(json, media_type=JSON)
