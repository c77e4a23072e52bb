"""What is asked of a batch beside its lines: by when, when it may begin, for how much; and of pages of a list. Pure."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, tzinfo
from typing import Any, get_args
from urllib.parse import parse_qsl

from app.gateway.protocol.errors import TooLarge
from jobs.batches.deadlines import deadline_by, deadline_within
from jobs.batches.records import ENDPOINTS, BatchStart
from jobs.core.errors import BadRequest, Corrupt
from jobs.core.foreign import document
from jobs.core.units import counted

MOST_BODY = 64 * 1024
"""Bytes of what a batch is posted with, beside its file; the largest metadata takes a third of it."""

MOST_PAIRS, LONGEST_KEY, LONGEST_VALUE = 16, 64, 512
"""Of metadata, as OpenAI has them."""

LEAST_KEPT, MOST_KEPT = 3600, 30 * 24 * 3600
"""Seconds after which a file may expire, as OpenAI has them."""

OPENAI_ENDPOINTS = tuple(each for each in ENDPOINTS if each != "/v1/messages")
WINDOW = "24h"

_STARTS: tuple[BatchStart, ...] = get_args(BatchStart)


@dataclass(frozen=True)
class Asked:
    """What both dialects may say.

    Args:
        at: when it was asked.
        completion_window: as it was said.
        expires_at: the deadline.
        start: when it may begin; None where that was left open.
        max_dollars: what it may take.
        metadata: its poster's own.

    """

    at: datetime
    completion_window: str
    expires_at: datetime
    start: BatchStart | None
    max_dollars: float | None
    metadata: Mapping[str, str]


def members_of(body: bytes | bytearray) -> Mapping[str, Any]:
    """The members of the body that a batch is posted with.

    Raises:
        TooLarge: it has more bytes than that takes.
        BadRequest: it is no object.

    """
    if len(body) > MOST_BODY:
        raise TooLarge(f"the body has more than {MOST_BODY:,} bytes", hint="lines belong in a file")
    try:
        members = document(bytes(body), "the body", is_strict=True)
    except Corrupt as error:
        raise BadRequest("the body is no JSON") from error
    if not isinstance(members, dict):
        raise BadRequest("the body is no object")
    return members


def asked_of(members: Mapping[str, Any], now: datetime, zone: tzinfo | None) -> Asked:
    """
    Raises:
        BadRequest: one of them is not what it may be; the message says which are right.
    """
    window = members.get("completion_window", WINDOW)
    if not isinstance(window, str):
        raise BadRequest("completion_window is no text", hint="say 24h, 1h or 7d")
    expires_at = deadline_within(window, now)
    by = members.get("by")
    if by is not None:
        if not isinstance(by, str):
            raise BadRequest("by is no text", hint="say a time like 07:00, or a moment")
        expires_at = deadline_by(by, now, zone)
    return Asked(
        at=now,
        completion_window=window.strip(),
        expires_at=expires_at,
        start=_start(members.get("start")),
        max_dollars=_dollars(members.get("max_dollars")),
        metadata=_metadata(members.get("metadata")),
    )


def endpoint_of(members: Mapping[str, Any]) -> str:
    """What the lines of an OpenAI batch ask for.

    Raises:
        BadRequest: it is left out, or none that a batch may ask for.

    """
    endpoint = members.get("endpoint")
    if endpoint not in OPENAI_ENDPOINTS:
        said = "is left out" if endpoint is None else "is none that a batch may ask for"
        raise BadRequest(f"endpoint {said}", hint=f"say {', '.join(OPENAI_ENDPOINTS[:-1])} or {OPENAI_ENDPOINTS[-1]}")
    return str(endpoint)


def input_file_of(members: Mapping[str, Any]) -> str:
    """
    Raises:
        BadRequest: it is left out, or no text.
    """
    id = members.get("input_file_id")
    if not isinstance(id, str) or not id:
        raise BadRequest("input_file_id is left out", hint="upload a file first: POST /v1/files with purpose=batch")
    return id


def kept_seconds(anchor: object, seconds: object, what: str) -> int | None:
    """After how many seconds a file may be removed; None where nothing is said of it.

    Raises:
        BadRequest: it is said in a way that means nothing.

    """
    if anchor is None and seconds is None:
        return None
    hint = f"say anchor created_at, and seconds from {LEAST_KEPT} to {MOST_KEPT}"
    if anchor != "created_at":
        raise BadRequest(f"the anchor of {what} is not created_at", hint=hint)
    said = str(seconds)
    if isinstance(seconds, bool) or not said.isascii() or not said.isdigit() or len(said) > 9:
        raise BadRequest(f"the seconds of {what} are no whole number", hint=hint)
    if not LEAST_KEPT <= int(said) <= MOST_KEPT:
        raise BadRequest(f"the seconds of {what} are {int(said):,}", hint=hint)
    return int(said)


def _start(said: object) -> BatchStart | None:
    found = next((each for each in _STARTS if each == said), None)
    if said is not None and found is None:
        raise BadRequest("start is none that we know", hint=f"say {', '.join(_STARTS[:-1])} or {_STARTS[-1]}")
    return found


def _dollars(said: object) -> float | None:
    if said is None:
        return None
    if isinstance(said, bool) or not isinstance(said, int | float) or not math.isfinite(said) or not 0 < said < 1e9:
        raise BadRequest("max_dollars is no amount", hint="say a number above 0, like 3 or 0.5")
    return float(said)


def _metadata(said: object) -> Mapping[str, str]:
    if said is None:
        return {}
    limits = f"up to {MOST_PAIRS} texts of {LONGEST_VALUE} characters, under names of {LONGEST_KEY}"
    if not isinstance(said, dict):
        raise BadRequest("metadata is no object", hint=limits)
    if len(said) > MOST_PAIRS:
        raise BadRequest(f"metadata has {counted(len(said), 'entry', 'entries')}", hint=limits)
    for name, value in said.items():
        if len(name) > LONGEST_KEY:
            raise BadRequest(f"a name in metadata has {len(name):,} characters", hint=limits)
        if not isinstance(value, str):
            raise BadRequest(f"metadata {name!r} is no text", hint=limits)
        if len(value) > LONGEST_VALUE:
            raise BadRequest(f"metadata {name!r} has {len(value):,} characters", hint=limits)
    return said


# -- pages -------------------------------------------------------------------------------------------------------------

_MOST_QUERY = 4 * 1024


def parameters(query: bytes) -> Mapping[str, str]:
    """The parameters of an address, the last of each name.

    Raises:
        BadRequest: there are too many.

    """
    if len(query) > _MOST_QUERY:
        raise BadRequest("the address is too long")
    return dict(parse_qsl(query.decode("latin-1"), keep_blank_values=True))


def limit_of(said: Mapping[str, str], *, default: int, most: int) -> int:
    """How many entries a page may have.

    Raises:
        BadRequest: it is no number of them.

    """
    text = said.get("limit", str(default))
    if not text.isascii() or not text.isdigit() or len(text) > 9 or not 1 <= int(text) <= most:
        raise BadRequest(f"limit {text[:20]!r} is none", hint=f"say 1 to {most:,}")
    return int(text)


def is_descending(said: Mapping[str, str]) -> bool:
    """In which order a list is wanted.

    Raises:
        BadRequest: it is no order.

    """
    order = said.get("order", "desc")
    if order not in {"asc", "desc"}:
        raise BadRequest(f"order {order[:20]!r} is none", hint="say asc or desc")
    return order == "desc"
