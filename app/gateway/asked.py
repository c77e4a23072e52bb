"""What a request asks for, as far as its way depends on it. The body itself is passed on untouched.

Read as Go's decoder reads it, or refused: a body that two readers could understand differently would let a key reach a
model that it may not use. What is long in a body (texts, images) is skipped, so that neither 100 MB nor a list of
millions can hold up the other callers.
"""

import asyncio
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from email.parser import BytesHeaderParser
from typing import Any

from app.gateway.exchange import Exchange
from jobs.errors import BadRequest, Forbidden

LARGE = 1_000_000
"""Bytes above which a body is read in a thread."""

MOST_STRUCTURE = 8_000_000
"""Bytes of a body without its long texts."""

_LONG_TEXT = 1024

RELOADS = ("num_ctx", "num_gpu", "num_batch", "main_gpu", "use_mmap", "num_thread", "draft_num_predict")
"""Options that are fixed when a model is loaded (server/sched.go:1381-1431): another value loads it anew."""

Settings = tuple[tuple[str, Any], ...]


@dataclass(frozen=True)
class Asked:
    """The part of a request that decides where it goes and how its caller waits."""

    model: str
    streams: bool
    settings: Settings = ()
    """Those of the options that a load depends on."""
    needs_load: bool = True
    """Whether a server answers only with the model in memory."""
    is_kept: bool = True
    """Whether the model stays in memory afterwards, for long enough to be counted on."""

    @property
    def context(self) -> int | None:
        value = dict(self.settings).get("num_ctx")
        return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None


async def read(exchange: Exchange) -> Asked:
    """What the body asks for.

    Raises:
        BadRequest: it does not say which model, or says it twice, or is not what it claims to be.
        Forbidden: it asks for what nobody may have here.

    """
    if any(name == b"content-encoding" for name, _ in exchange.headers):
        raise BadRequest("the body is encoded", hint="send it without Content-Encoding")
    if exchange.entry.path == "/api/show":
        return Asked(model_in(document(exchange)), streams=False, needs_load=False)
    if exchange.entry.path == "/v1/audio/transcriptions":
        kind = next((value for name, value in exchange.headers if name == b"content-type"), b"")
        return Asked(_field_of(exchange.body, kind, b"model"), streams=False)
    if len(exchange.body) > LARGE:
        found = await asyncio.to_thread(_document, exchange.body)
    else:
        found = _document(exchange.body)
    return _asked(found, streams=exchange.entry.speech == "ollama")


def document(exchange: Exchange) -> Mapping[str, Any]:
    """The body of a request about a model, its keys in lower case: Go reads them in any."""
    found = _document(exchange.body)
    return {key.casefold(): value for key, value in found.items()} | _watched(found)


def model_in(request: Mapping[str, Any]) -> str:
    """The model that a native request names, by either of its two keys."""
    return _text(request.get("model") or request.get("name"))


def renamed(body: bytes, name: str) -> bytes:
    """The same body with another model in it."""
    document = json.loads(body.decode("utf-8", "replace"))
    return json.dumps({key: name if key.casefold() == "model" else each for key, each in document.items()}).encode()


_WATCHED = frozenset(
    {"model", "name", "stream", "options", "keep_alive", "prompt", "messages", "input", "_debug_render_only"}
)


def _asked(document: Mapping[str, Any], *, streams: bool) -> Asked:
    found = _watched(document)
    if found.get("_debug_render_only"):
        raise Forbidden("_debug_render_only is not served here", hint="leave it out")
    options = found.get("options")
    chosen = options if isinstance(options, dict) else {}
    settings = tuple((name, chosen[name]) for name in RELOADS if isinstance(chosen.get(name), int))
    stream = found.get("stream")
    keep = found.get("keep_alive")
    # As `ollama stop` does it; to load a model in order to unload it would be absurd.
    unloads = keep in _NOT_AT_ALL and not any(found.get(key) for key in ("prompt", "messages", "input"))
    return Asked(
        _text(found.get("model")),
        stream if isinstance(stream, bool) else streams,
        settings,
        needs_load=not unloads,
        is_kept=keep is None or _is_long(keep),
    )


_NOT_AT_ALL = (0, "0", "0s", "0m")


def _is_long(keep: Any) -> bool:
    """Whether a `keep_alive` (api/types.go:1243-1271) lasts for minutes, or for ever."""
    if isinstance(keep, str):
        return keep.startswith("-") or re.search(r"\dh|[1-9]\d*m(?!s)", keep) is not None
    return isinstance(keep, int | float) and (keep < 0 or keep >= 60)


def _watched(document: Mapping[str, Any]) -> dict[str, Any]:
    """The keys that matter, in the spelling of none: Go matches them without regard to case, and the last one wins."""
    found: dict[str, Any] = {}
    for key, value in document.items():
        folded = key.casefold()
        if folded in _WATCHED:
            if folded in found:
                raise BadRequest(f"the body says {folded!r} more than once, in different spellings", hint="say it once")
            found[folded] = value
    return found


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise BadRequest("model is required", hint='the body is a JSON object with a "model"')
    name = value.removesuffix(":local")
    if name.endswith((":cloud", "-cloud")):
        raise Forbidden("ollama cloud is disabled: remote model is unavailable", hint="choose a model that is here")
    return name


def _document(body: bytes) -> Mapping[str, Any]:
    if not body:
        raise BadRequest("missing request body")
    try:
        document = json.loads((slim(body) if len(body) > LARGE else body).decode("utf-8", "replace"))
    except RecursionError as error:
        raise BadRequest("the body is nested too deeply") from error
    except ValueError as error:
        raise BadRequest(f"the body is no JSON: {error}") from error
    if not isinstance(document, dict):
        raise BadRequest(f"the body is a JSON {type(document).__name__}, not an object")
    return document


def slim(body: bytes) -> bytes:
    """The same document with nothing in the place of its long texts.

    Raises:
        BadRequest: too much is left.

    """
    kept, at = [], 0
    while (start := body.find(b'"', at)) >= 0:
        end = _closing(body, start)
        if end - start > _LONG_TEXT:
            kept.append(body[at : start + 1])
            at = end
            kept.append(b'"')
        else:
            kept.append(body[at : end + 1])
        at = end + 1
    kept.append(body[at:])
    rest = b"".join(kept)
    if len(rest) > MOST_STRUCTURE:
        raise BadRequest(f"the body has {len(rest):,} bytes beside its texts", hint="send it in several requests")
    return rest


def _closing(body: bytes, start: int) -> int:
    """Where the text that begins at `start` ends."""
    at = start + 1
    while (end := body.find(b'"', at)) >= 0:
        backslash = end - 1
        while body[backslash] == 0x5C:
            backslash -= 1
        if (end - backslash) % 2:
            return end
        at = end + 1
    return len(body)


def _field_of(body: bytes, content_type: bytes, field: bytes) -> str:
    """The value of one field of a form. Exactly one part may have that name, however it is spelt."""
    found = re.fullmatch(rb"multipart/form-data;\s*boundary=\"?([^\s\";]{1,70})\"?", content_type, re.IGNORECASE)
    if found is None:
        raise BadRequest("the body is no form", hint="send multipart/form-data with `model` and `file`")
    boundary = b"--" + found[1]
    if not body.startswith(boundary + b"\r\n"):
        raise BadRequest("the form does not begin with its boundary")
    values = []
    for part in body[len(boundary) :].split(b"\r\n" + boundary):
        head, gap, value = part.partition(b"\r\n\r\n")
        if gap and _name_of(head) == field.decode():
            values.append(value)
    if len(values) != 1 or len(values[0]) > _LONG_TEXT:
        raise BadRequest(f"the form has {len(values)} fields {field.decode()!r}", hint="send one")
    return _text(values[0].decode("utf-8", "replace"))


def _name_of(head: bytes) -> str:
    if len(head) > _LONG_TEXT:
        raise BadRequest("a part of the form has too long a head")
    name = BytesHeaderParser().parsebytes(head.lstrip(b"\r\n")).get_param("name", header="content-disposition")
    if isinstance(name, tuple):
        raise BadRequest("a name in the form is encoded", hint="send it as it is")
    return str(name or "")
