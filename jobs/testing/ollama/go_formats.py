"""What the simulator says, how it counts, and Go's formats and JSON as far as Ollama's users see them."""

import hashlib
import json
import math
import random
import re
import struct
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

from jobs.core.clock import Clock
from jobs.testing.ollama.faults import SimError

SAYS = "This is the ollama-modal simulator, not inference."
LONGEST = timedelta(days=106_751)

_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_DURATION = re.compile(r"[+-]?(?:(?:\d+\.?\d*|\.\d+)(?:ns|us|µs|ms|s|m|h))+")
_PART = re.compile(r"(\d+\.?\d*|\.\d+)(ns|us|µs|ms|s|m|h)")

_OPTIONS: dict[str, tuple[type, ...]] = {
    "temperature": (int, float),
    "top_p": (int, float),
    "min_p": (int, float),
    "repeat_penalty": (int, float),
    "top_k": (int,),
    "seed": (int,),
    "num_ctx": (int,),
    "num_predict": (int,),
    "num_gpu": (int,),
}

_KINDS = {list: "array", str: "string", int: "number", float: "number", bool: "bool", dict: "object"}
_STRINGS = ("model", "name", "prompt", "source", "destination", "system")
_LITERALS = {"n": "null", "t": "true", "f": "false"}


def reply(prompt: str) -> list[str]:
    """The answer in tokens. What it is stands in the first, so that no limit cuts it away."""
    return [SAYS, *tokens(f" You said: {' '.join(prompt.split())}")]


def tokens(text: str) -> list[str]:
    """Words with the blanks before them; joined they are the text again."""
    return re.findall(r"\s*\S+|\s+$", text)


def vector(text: str, length: int) -> list[float]:
    """A direction of its own for every text, of length 1."""
    rng = random.Random(hashlib.sha256(text.encode()).digest())
    raw = [rng.gauss(0, 1) for _ in range(length)]
    norm = math.sqrt(sum(number * number for number in raw))
    return [_float32(number / norm) for number in raw]


def _float32(number: float) -> float:
    value: float = struct.unpack("<f", struct.pack("<f", number))[0]
    return value


def stamp(clock: Clock) -> str:
    """RFC 3339 in UTC with nanoseconds, as Go writes it."""
    now = clock.now().astimezone(UTC)
    return now.strftime("%Y-%m-%dT%H:%M:%S.%f") + f"{random.randrange(1000):03d}Z"


def rfc3339(moment: datetime) -> str:
    """A file's time as Go writes it."""
    return moment.isoformat().replace("+00:00", "Z")


def unix(moment: datetime) -> int:
    return int(moment.timestamp())


def nanoseconds(seconds: float) -> int:
    return max(1, int(seconds * 1e9))


def short_id(prefix: str, below: int) -> str:
    """Random and not unique, as the real ones are."""
    return f"{prefix}-{random.randrange(below)}"


def keep_alive(value: Any) -> timedelta | None:
    """A JSON `keep_alive`: numbers are seconds, negative is forever, a string needs a unit."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        names = {bool: "bool", list: "[]interface {}", dict: "map[string]interface {}"}
        raise SimError(f"Unsupported type: '{names.get(type(value), 'nil')}'", 400)
    seconds = go_seconds(value) if isinstance(value, str) else float(value)
    return LONGEST if seconds < 0 else min(timedelta(seconds=min(seconds, 1e10)), LONGEST)


def go_seconds(text: str) -> float:
    """A Go duration such as `5m` or `1h30m`, in seconds."""
    if text == "0":
        return 0.0
    if not _DURATION.fullmatch(text):
        if re.fullmatch(r"[+-]?\d+\.?\d*", text):
            raise SimError(f'time: missing unit in duration "{text}"', 400)
        raise SimError(f'time: invalid duration "{text}"', 400)
    seconds = sum(float(amount) * _UNITS[unit] for amount, unit in _PART.findall(text))
    return -seconds if text.startswith("-") else seconds


def checked_options(options: Any) -> dict[str, Any]:
    """Known names must have the right type; unknown ones are only logged by the real one."""
    given: dict[str, Any] = options if isinstance(options, dict) else {}
    for name, value in given.items():
        kinds = _OPTIONS.get(name)
        if kinds and (isinstance(value, bool) or not isinstance(value, int | float)):  # fractions are cut off
            raise SimError(f'option "{name}" must be of type {"float32" if float in kinds else "integer"}')
    return given


def paced(words: list[str], per_second: float, clock: Clock, stopping: threading.Event) -> Iterator[str]:
    """The words, one by one, at a model's speed; 0 is as fast as it goes. They end when the server stops."""
    for word in words:
        if per_second and clock.wait(1 / per_second, stopping):
            raise SimError("context canceled")
        yield word


def go_json(raw: bytes, go_type: str) -> dict[str, Any]:
    """The object in `raw`; null is an empty one.

    Raises:
        SimError: with the decoder's own text.

    """
    text = raw.decode(errors="replace").lstrip()
    try:
        document, _ = json.JSONDecoder().raw_decode(text)
    except ValueError as error:
        raise SimError(_syntax(text)) from error
    if document is None:
        return {}
    if not isinstance(document, dict):
        raise SimError(f"json: cannot unmarshal {_KINDS[type(document)]} into Go value of type {go_type}")
    _check_fields(document, go_type)
    return document


def _syntax(text: str) -> str:
    literal = _LITERALS.get(text[:1])
    if not text:
        return "EOF"
    if literal is None:
        return "unexpected EOF" if text[0] in '{["' else f"invalid character '{text[0]}' looking for beginning of value"
    for at, expected in enumerate(literal):
        if at >= len(text):
            return "unexpected EOF"
        if text[at] != expected:
            return f"invalid character '{text[at]}' in literal {literal} (expecting '{expected}')"
    return "unexpected EOF"


def _check_fields(document: dict[str, Any], go_type: str) -> None:
    struct = go_type.rpartition(".")[2]
    for key, value in document.items():
        name = key.lower()
        if name in _STRINGS and value is not None and not isinstance(value, str | list | dict):
            raise SimError(_mismatch(value, struct, name, "string"))
        if name == "messages" and value is not None and not isinstance(value, list):
            raise SimError(_mismatch(value, struct, name, f"[]{go_type.partition('.')[0]}.Message"))


def _mismatch(value: Any, struct: str, name: str, wanted: str) -> str:
    return f"json: cannot unmarshal {_KINDS[type(value)]} into Go struct field {struct}.{name} of type {wanted}"
