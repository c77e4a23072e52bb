"""What the simulator says of itself, how it counts, and the odd formats of Go that it has to speak."""

import hashlib
import math
import random
import re
import struct
from datetime import UTC, datetime, timedelta
from typing import Any

from jobs.core.clock import Clock
from jobs.testing.ollama.faults import SimError

SAYS = "SIMULATED: this is the ollama-modal simulator, not inference."
LONGEST = timedelta(days=106_751)

_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_DURATION = re.compile(r"[+-]?(?:(?:\d+\.?\d*|\.\d+)(?:ns|us|µs|ms|s|m|h))+")
_PART = re.compile(r"(\d+\.?\d*|\.\d+)(ns|us|µs|ms|s|m|h)")

_OPTIONS: dict[str, str] = {
    **dict.fromkeys(
        ("num_keep", "seed", "num_predict", "top_k", "repeat_last_n", "num_ctx", "num_batch", "num_gpu", "main_gpu",
         "num_thread", "draft_num_predict"),
        "integer",
    ),
    **dict.fromkeys(
        ("top_p", "min_p", "typical_p", "temperature", "repeat_penalty", "presence_penalty", "frequency_penalty"),
        "float32",
    ),
    "use_mmap": "boolean",
    "stop": "array",
}  # fmt: skip
"""The options that Ollama knows, and the words for their types (ollama api/types.go, Options.FromMap)."""


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
    """Those that say something: a null is no option. Unknown names are only logged by the real one.

    Raises:
        SimError: a known name has a value of another type; fractions of whole numbers are cut off.

    """
    given: dict[str, Any] = options if isinstance(options, dict) else {}
    said = {name: value for name, value in given.items() if value is not None}
    for name, value in said.items():
        wanted = _OPTIONS.get(name)
        if wanted and not _is_of(wanted, value):
            raise SimError(f'option "{name}" must be of type {wanted}')
        if wanted == "array" and not all(isinstance(each, str) for each in value):
            raise SimError(f'option "{name}" must be of an array of strings')
    return said


def _is_of(wanted: str, value: Any) -> bool:
    if wanted == "array":
        return isinstance(value, list)
    is_truth = isinstance(value, bool)
    return is_truth if wanted == "boolean" else isinstance(value, int | float) and not is_truth
