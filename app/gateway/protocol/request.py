"""What a request asks for, as far as it decides where it goes. The body itself is passed on as it is, nearly always.

Read as Go's decoder reads it, or refused: a body that two readers could understand differently would let a key reach a
model that it may not use. What is not small is read in a thread, one body of a key at a time, and nothing of it is
built but the fields that count.
"""

import asyncio
import json
import re
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeVar
from weakref import WeakValueDictionary

from app.gateway.protocol import forms, refusals, usage_chunk
from app.gateway.protocol.errors import TooLarge
from app.gateway.protocol.exchange import Exchange
from app.gateway.protocol.headers import Header
from app.gateway.protocol.json_body.cut_texts import cut, is_json
from app.gateway.protocol.json_body.edits import Body, BodyEdit, ValueSpan
from app.gateway.protocol.json_body.fields import Fields
from app.gateway.protocol.json_body.search import fields_of
from app.gateway.protocol.model_defaults import LOOKED_AT, edits
from app.gateway.protocol.routes import RouteEntry
from jobs.core.errors import BadRequest, Forbidden, Trouble
from jobs.models.model_settings import ModelSettings

T = TypeVar("T")

_NO_FIELDS = Fields()

PLAIN = 128 * 1024
"""Bytes up to which a body is read on the event loop, if it is little else than some long texts."""

MOST_MARKS = 400
"""Quotes, commas, lists, objects and escapes that such a body may have, those in its texts included. None costs more
than three microseconds, whatever stands between them, so that nothing on the loop comes near two milliseconds."""

MOST_SHOWN = 256 * 1024
"""Bytes of a request to show a model: what it says of `system` and `options` comes back in the answer."""

RELOADS = ("num_ctx", "num_gpu", "num_batch", "main_gpu", "use_mmap", "num_thread", "draft_num_predict")
"""Options that are fixed when a model is loaded (server/sched.go:1381-1431): another value loads it anew."""

_MARKS = (b'"', b",", b"[", b"{", b"\\")

_TRUTHS = frozenset({"use_mmap"})
"""Those of them that are no numbers."""

LoadSettings = tuple[tuple[str, Any], ...]

_readers = ThreadPoolExecutor(2, thread_name_prefix="body")
"""Two at most take the interpreter from the event loop. A body that one of them reads does not change until it is
done, unless its caller leaves: then the event loop empties it, and what the thread makes of it is thrown away."""

_turns: WeakValueDictionary[tuple[asyncio.AbstractEventLoop, str], asyncio.Lock] = WeakValueDictionary()
"""By loop and key, used on that loop alone: a key that sends many large bodies waits for itself, and the other reader
is free for other keys."""


@dataclass(slots=True)
class InferenceRequest:
    """The part of a request that decides where it goes and how its caller waits. Nobody changes one, but to forget the
    fields; there is one for each request, and to have it frozen would double what it costs.
    """

    model: str
    streams: bool
    settings: LoadSettings = ()
    """Those of the options that a load depends on."""
    needs_load: bool = True
    """Whether a server answers only with the model in memory."""
    is_kept: bool = True
    """Whether the model stays in memory afterwards, for long enough to be counted on."""
    keep_seconds: float | None = None
    """How long it stays, below zero for ever; None where the request does not say."""
    model_at: ValueSpan | None = None
    """Where the model's name stands in the body, quotes included; None where that is among the `fields`."""
    is_form: bool = False
    """The body is no JSON: names in it have no quotes."""
    fields: Fields = field(default_factory=Fields, compare=False, repr=False)
    """What was looked for in the body, for as long as that is as it came."""
    refusal: Trouble | None = None
    """Why Ollama would not do it, once it has found the model."""
    wants: refusals.Wants = refusals.NOTHING
    """What the model has to be able to do for it."""

    @property
    def unloads(self) -> bool:
        """Whether it is there only to have the model let go."""
        return not self.needs_load and self.keep_seconds == 0

    asking_for_usage: BodyEdit | None = None
    """How the body has to be changed so that the tokens of its stream are told."""
    forbids_cut: bool = False
    """Whether its caller wants an error where the prompt does not fit."""
    malformed: BadRequest | None = None
    """Why Ollama would refuse the body before it looks for the model. Another engine may take it."""

    @property
    def is_plain(self) -> bool:
        """Whether it is to be answered at once, and says nothing of how: nothing is refused of it."""
        return not (
            self.settings
            or not self.needs_load
            or self.keep_seconds is not None
            or self.refusal is not None
            or self.malformed is not None
        )

    def forget_fields(self) -> None:
        """Nothing more is looked for in the body, and what was made of it need not stay as long as the answer lasts."""
        self.fields = _NO_FIELDS

    async def with_defaults(self, exchange: Exchange, settings: ModelSettings, context: int | None) -> list[BodyEdit]:
        """What is to be put into the body of what is set for the model; read in a thread where the body is large.

        Args:
            exchange: with the body, as it came.
            settings: what is set.
            context: what the request gets for its `num_ctx`, where that is set.

        """
        path, body = exchange.entry.path, exchange.body
        return await _in_turn(exchange, lambda: [*edits(path, body, self.fields, settings, context)])

    @property
    def context(self) -> int | None:
        if not self.settings:
            return None
        value = dict(self.settings).get("num_ctx")
        return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None


async def read_request(exchange: Exchange) -> InferenceRequest:
    """What the body asks for.

    Raises:
        BadRequest: it does not say which model, or says it twice, or is not what it claims to be.
        Forbidden: it asks for what is not served here.

    """
    path, body = exchange.entry.path, exchange.body
    if is_encoded(exchange.headers):
        raise BadRequest("the body is encoded", hint="send it without Content-Encoding")
    if path == "/api/show":
        return await _of_document(exchange, _show_request)
    if path == "/v1/audio/transcriptions":
        return await _in_turn(exchange, lambda: _form_request(body, exchange))
    if (small := small_request(body, exchange.entry)) is not None:
        return small
    names = _LOOKED_FOR.get(path, _WATCHED)
    return await _in_turn(
        exchange, lambda: _inference_request(fields_of(body, names, _INSIDE, _STRUCTS), exchange.entry, body)
    )


def is_encoded(headers: Iterable[Header]) -> bool:
    """Whether a body is sent in another form than its own."""
    return any(name == b"content-encoding" and value.lower() != b"identity" for name, value in headers)


def is_small_kind(path: str) -> bool:
    """Whether `small_request` reads what comes to this path."""
    return path not in {"/api/show", "/v1/audio/transcriptions"}


def small_request(body: Body, entry: RouteEntry) -> InferenceRequest | None:
    """What a body asks for that is read in so little time that no thread is needed; None for any other.

    Raises:
        BadRequest: as `read_request` does.
        Forbidden: likewise.

    """
    if len(body) > PLAIN or (short := cut(body, MOST_MARKS)) is None or (marks := few_marks(short)) is None:
        return None
    if short is not body and not is_json(body):
        return None
    names = _LOOKED_FOR.get(entry.path, _WATCHED)
    return _inference_request(fields_of(body, names, _INSIDE, _STRUCTS, marks=marks, short=short), entry, body)


async def read_document(exchange: Exchange) -> Mapping[str, Any]:
    """What a request about a model says, its keys in lower case: Go reads them in any.

    Raises:
        TooLarge: it has more than such a request needs.

    """
    return await _of_document(exchange, _document)


async def _of_document(exchange: Exchange, make: Callable[[Fields], T]) -> T:
    body = exchange.body
    if len(body) > MOST_SHOWN:
        raise TooLarge(
            f"the body has more than {MOST_SHOWN:,} bytes", hint="to show a model needs little more than its name"
        )
    return await _in_turn(exchange, lambda: make(fields_of(body, _SHOWN, _INSIDE)))


def _document(fields: Fields) -> Mapping[str, Any]:
    return {name: fields.whole(name) for name in _SHOWN if fields.span(name)}


def _show_request(fields: Fields) -> InferenceRequest:
    model_at = next((span for key in MODEL_KEYS if fields.is_set(key) and (span := fields.span(key))), (0, 0))
    return InferenceRequest(model_in(_document(fields)), streams=False, needs_load=False, model_at=model_at)


def model_in(request: Mapping[str, Any]) -> str:
    """The model that a native request names, by either of its two keys."""
    for key in MODEL_KEYS:
        if not isinstance(request.get(key), str | None):
            raise BadRequest(f"{key} is no text", hint='as in {"model": "llama3.2"}')
    return _text(request.get("model") or request.get("name"))


def with_context(settings: LoadSettings, context: int) -> LoadSettings:
    """The settings of a load with another context."""
    said = {**dict(settings), "num_ctx": context}
    return tuple((name, said[name]) for name in RELOADS if name in said)


def naming(request: InferenceRequest, name: str) -> BodyEdit:
    """How the body names another model."""
    span = request.model_at or request.fields.span("model")
    assert span is not None
    return span, name.encode() if request.is_form else json.dumps(name).encode()


def is_quick(body: Body) -> bool:
    """Whether a body is read in so little time that to hand it to a thread would take longer."""
    return few_marks(body) is not None


def few_marks(body: Body) -> int | None:
    """How many marks such a body has at most; None for any other."""
    if (size := len(body)) <= MOST_MARKS:
        return size
    if size > PLAIN:
        return None
    marks = 0
    for mark in _MARKS:  # looked for one by one: few are found so in a third of the time that all are counted in
        at = body.find(mark)
        while at >= 0:
            marks += 1
            if marks > MOST_MARKS:
                return None
            at = body.find(mark, at + 1)
    return marks


async def _in_turn(exchange: Exchange, work: Callable[[], T]) -> T:
    """Do it here where it is little, else in a thread, after what this key has there already."""
    if is_quick(exchange.body):
        return work()
    loop = asyncio.get_running_loop()
    turn = _turns.setdefault((loop, exchange.caller.name), asyncio.Lock())
    async with turn:
        return await loop.run_in_executor(_readers, work)


MODEL_KEYS = ("model", "name")
"""Native requests name the model by either; the first counts."""

_SHOWN = frozenset({"model", "name", "verbose", "system", "options"})
_WATCHED = frozenset(
    {"model", "stream", "options", "keep_alive", "prompt", "messages", "_debug_render_only", "truncate"}
)
_LOOKED_FOR = {
    path: _WATCHED | refusals.FIELDS.get(path, frozenset()) | LOOKED_AT.get(path, frozenset())
    for path in {*refusals.FIELDS, *LOOKED_AT}
}
"""By path, all that may decide something."""
_INSIDE = {"options": frozenset(refusals.OPTIONS), "stream_options": frozenset({"include_usage"})}
_STRUCTS = frozenset({"stream_options"})

_QUESTIONS = {"/api/generate": "prompt", "/api/chat": "messages"}
"""Where a request may be there to unload a model, and what then is missing."""


def _form_request(body: Body, exchange: Exchange) -> InferenceRequest:
    text, span = forms.field_of(body, exchange.headers, "model")
    return InferenceRequest(_text(text), streams=False, model_at=span, is_form=True)


def _inference_request(fields: Fields, entry: RouteEntry, body: bytes | bytearray) -> InferenceRequest:
    if fields.is_set("_debug_render_only"):
        raise Forbidden("_debug_render_only is not served here", hint="leave it out")
    is_native = entry.speech == "ollama"
    stream = fields.scalar("stream")
    model = _text(fields.scalar("model"))
    # The other dialects have neither options nor `keep_alive`: there these are fields without a meaning.
    keep = _keep_alive(fields) if is_native else None
    seconds = None if keep is None else _seconds(keep)
    malformed: BadRequest | None = None
    try:
        verdict = refusals.judge(fields, entry.path)
    except BadRequest as refusal:
        verdict, malformed = refusals.Verdict(), refusal
    # As `ollama stop` does it; to load a model in order to unload it would be absurd.
    unloads = seconds == 0 and entry.path in _QUESTIONS and not fields.is_set(_QUESTIONS[entry.path])
    streams = stream if isinstance(stream, bool) else is_native
    return InferenceRequest(
        model,
        streams,
        _settings(fields.inside("options")) if is_native and fields.is_there("options") else (),
        needs_load=not unloads,
        is_kept=keep is None or (seconds is not None and (seconds < 0 or seconds >= 60)),
        keep_seconds=None if keep is None else -1.0 if seconds is None else seconds,
        fields=fields,
        refusal=None if unloads else verdict.refusal,
        wants=refusals.NOTHING if unloads else verdict.wants,
        asking_for_usage=usage_chunk.asking(fields, body) if streams and entry.path in usage_chunk.PATHS else None,
        forbids_cut=fields.scalar("truncate") is False,
        malformed=malformed,
    )


def _keep_alive(fields: Fields) -> Any:
    """How long the model shall stay, as the request says it.

    Raises:
        BadRequest: in Ollama's words: it is no duration.

    """
    keep, kind = fields.scalar("keep_alive"), fields.kind("keep_alive")
    if kind in _NO_DURATIONS:
        raise BadRequest(f"Unsupported type: '{_NO_DURATIONS[kind]}'")
    if isinstance(keep, str) and _seconds(keep) is None:
        is_number = re.fullmatch(r"[-+]?\d+\.?\d*", keep, re.ASCII)
        raise BadRequest(f"time: {'missing unit in' if is_number else 'invalid'} duration {json.dumps(keep[:100])}")
    return keep


_NO_DURATIONS = {"bool": "bool", "array": "[]interface {}", "object": "map[string]interface {}"}
"""Go's names for them."""


def _settings(options: Fields) -> LoadSettings:
    """What of the options a load depends on, by value: Go cuts off what comes behind the point."""
    return tuple((name, value) for name in RELOADS if (value := _setting(options, name)) is not None)


def _setting(options: Fields, name: str) -> int | bool | None:
    value = options.scalar(name)
    if isinstance(value, bool) or name in _TRUTHS:
        return value if isinstance(value, bool) and name in _TRUTHS else None
    if not isinstance(value, int | float):
        return None
    if abs(value) >= _MOST_NUMBER:
        raise BadRequest(f"options.{name} is {value:g}, which is beyond any use")
    return int(value)


_MOST_NUMBER = 2**31

# Each number has one way to match, so that there is nothing to try again where the end does not fit.
_DURATION = re.compile(r"[-+]?(?:(?:\d+(?:\.\d*)?|\.\d+)(?:ns|us|µs|μs|ms|s|m|h))+", re.ASCII)
_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}


def _seconds(keep: Any) -> float | None:
    """How long a `keep_alive` is (api/types.go:1243-1271), below zero for ever; None where Go does not take it."""
    if isinstance(keep, str):
        return _seconds_in(keep)
    if isinstance(keep, bool) or not isinstance(keep, int | float):
        return None
    return keep if keep < 0 else _counted(keep)


def _seconds_in(text: str) -> float | None:
    if text.lstrip("+-") == "0" and len(text) <= 2:
        return 0.0
    if not _DURATION.fullmatch(text):
        return None
    parts = re.findall(r"([\d.]+)([a-zµμ]+)", text)
    seconds = _counted(sum(float(number) * _UNITS[unit] for number, unit in parts))
    return -seconds if seconds is not None and text.startswith("-") else seconds


def _counted(seconds: float) -> float | None:
    """In whole nanoseconds. What 63 bits do not hold, Go refuses in a text, and takes for less than nothing else."""
    return int(seconds * 1e9) / 1e9 if seconds < 2**63 / 1e9 else None


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise BadRequest("model is required", hint='the body is a JSON object with a "model"')
    name = value.strip().removesuffix(":local")  # Ollama trims it as well (internal/modelref)
    if name.endswith((":cloud", "-cloud")):
        raise Forbidden("ollama cloud is disabled: remote model is unavailable", hint="choose a model that is here")
    return name
