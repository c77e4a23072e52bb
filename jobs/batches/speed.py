"""How fast batches were: what lines of one model took on one tier, added up, in facts `batch_speed/<tier>/<model>`.

Only sums are kept, from which the next estimate fits what a line, a token that is read and a token that is made take.
A batch counts three times as much as all that were before it, so a changed GPU or engine is learnt in a few.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from datetime import datetime
from typing import Any, Self

from jobs.core import foreign
from jobs.core.clock import isoformat
from jobs.store import keys
from jobs.store.protocols import DictLike

FEW = 100
"""Lines: what was measured before counts for so many at most, or for a third of those that came now. So a batch of one
line moves little, and one of a thousand is most of what is known."""


@dataclass(frozen=True)
class LineTook:
    """What one line that was answered took.

    Args:
        prompt_bytes: of it, as the read-through counts them.
        prompt_tokens: that were read.
        output_tokens: that were made.
        seconds: from sending it to its answer.
        max_tokens: how many it allowed; None where it set no limit.

    """

    prompt_bytes: int
    prompt_tokens: int
    output_tokens: int
    seconds: float
    max_tokens: int | None = None


@dataclass(frozen=True)
class Speed:
    """Sums over lines: themselves, and the products by which a line is fitted through them.

    `limited` lines set a limit to their answer, `free` ones set none; of those that make no tokens, as embeddings,
    neither counts. `gpu_seconds` is the part of the servers' time that all of them took, while there were always more
    to come: the last line of a batch has a server for itself.
    """

    lines: float = 0.0
    seconds: float = 0.0
    gpu_seconds: float = 0.0
    bytes: float = 0.0
    read: float = 0.0
    made: float = 0.0
    bytes_bytes: float = 0.0
    bytes_read: float = 0.0
    read_read: float = 0.0
    read_made: float = 0.0
    made_made: float = 0.0
    read_seconds: float = 0.0
    made_seconds: float = 0.0
    limited: float = 0.0
    limited_asked: float = 0.0
    limited_made: float = 0.0
    free: float = 0.0
    free_made: float = 0.0
    free_made_made: float = 0.0

    @classmethod
    def of(cls, line: LineTook) -> Self:
        """Of one line; its time of a GPU is not known by itself."""
        size, read, made, seconds = line.prompt_bytes, line.prompt_tokens, line.output_tokens, line.seconds
        is_limited, is_free = line.max_tokens is not None, line.max_tokens is None and made > 0
        return cls(
            lines=1.0,
            seconds=seconds,
            bytes=size,
            read=read,
            made=made,
            bytes_bytes=size * size,
            bytes_read=size * read,
            read_read=read * read,
            read_made=read * made,
            made_made=made * made,
            read_seconds=read * seconds,
            made_seconds=made * seconds,
            limited=float(is_limited),
            limited_asked=line.max_tokens or 0,
            limited_made=made if is_limited else 0,
            free=float(is_free),
            free_made=made if is_free else 0,
            free_made_made=made * made if is_free else 0,
        )

    def __add__(self, other: "Speed") -> "Speed":
        return Speed(*(getattr(self, name) + getattr(other, name) for name in _NAMES))

    def scaled(self, by: float) -> "Speed":
        return Speed(*(getattr(self, name) * by for name in _NAMES))

    def after(self, before: "Speed") -> "Speed":
        """With what was measured before, which counts for no more than a third of the lines that came now, but for a
        few."""
        most = max(self.lines / 3, float(FEW))
        return self + (before.scaled(most / before.lines) if before.lines > most else before)

    @property
    def is_measured(self) -> bool:
        return self.lines >= 1 and self.seconds > 0 and self.gpu_seconds > 0

    def with_gpu(self, gpu_seconds: float) -> "Speed":
        """With what all of a batch took of the servers' time, less that for which the last line had one for itself."""
        last = self._of_last(self.seconds)
        if self.seconds > last and gpu_seconds > last:
            steady = self.seconds * (gpu_seconds - last) / (self.seconds - last)
        else:
            steady = gpu_seconds
        return replace(self, gpu_seconds=min(steady, gpu_seconds))

    def gpu_seconds_of(self, seconds: float) -> float:
        """The part of the servers' time that lines take, which take so long one after the other."""
        beside = max(1.0, self.seconds / self.gpu_seconds) if self.gpu_seconds > 0 else 1.0
        return seconds / beside + (1 - 1 / beside) * self._of_last(seconds)

    def _of_last(self, seconds: float) -> float:
        """How long the last of such lines takes."""
        return min(seconds, self.seconds / max(self.lines, 1.0))

    # -- what follows from what --------------------------------------------------------------------------------------

    def read_of(self, lines: float, size: float) -> float:
        """The tokens that so many lines of so many bytes together are read as."""
        of_line, of_byte = _fitted(
            ((self.lines, self.bytes), (self.bytes, self.bytes_bytes)), (self.read, self.bytes_read), READ_USUALLY
        )
        return lines * of_line + size * of_byte

    def seconds_of(self, lines: float, read: float, made: float) -> float:
        """How long so many lines take, one after the other, beside as many others as there were."""
        of_line, of_read, of_made = _fitted(
            (
                (self.lines, self.read, self.made),
                (self.read, self.read_read, self.read_made),
                (self.made, self.read_made, self.made_made),
            ),
            (self.seconds, self.read_seconds, self.made_seconds),
            TAKES_USUALLY,
        )
        return lines * of_line + read * of_read + made * of_made

    def made_of(self, limited: float, asked: float, free: float) -> float:
        """The tokens that lines make, of which `limited` allow `asked` together and `free` set no limit."""
        return made_within(self._length_limited, limited, asked, self._alike) + free * self._length_free

    @property
    def _length_limited(self) -> float:
        """How long answers would be without their limit, by those that had one."""
        if self.limited > 0 and self.limited_asked > 0:
            return length(self.limited_asked / self.limited, self.limited_made / self.limited_asked, self._alike)
        return self._length_free

    @property
    def _length_free(self) -> float:
        if self.free > 0:
            return self.free_made / self.free
        if (
            self.limited > 0 and self.limited_asked > 0
        ):  # which tells little of how long they would be beyond their limit
            return min(self._length_limited, max(MADE_USUALLY, self.limited_asked / self.limited))
        return MADE_USUALLY

    @property
    def _alike(self) -> int:
        """How much alike answers are in length that nothing limits: 1 where they may end at any token."""
        if self.free < FEW_ANSWERS:
            return 1
        mean = self.free_made / self.free
        spread = self.free_made_made / self.free - mean * mean
        return round(min(MOST_ALIKE, max(1.0, mean * mean / spread))) if spread > 0 else MOST_ALIKE

    # -- as it is stored -----------------------------------------------------------------------------------------------

    def as_json(self, at: datetime) -> dict[str, Any]:
        return {"v": 1, "at": isoformat(at), **{name: round(getattr(self, name), 6) for name in _NAMES}}

    @classmethod
    def from_json(cls, document: Any) -> Self:
        """What makes no sense counts as nothing."""
        wire = foreign.fields(document)
        found = cls(*(_number(wire.get(name)) for name in _NAMES))
        return found if found.lines > 0 else cls()


_NAMES = tuple(each.name for each in fields(Speed))

READ_USUALLY = (10.0, 0.25)
"""Tokens of a line by itself, which its template adds, and of a byte: what is guessed before anything is measured."""

MADE_USUALLY = 400.0
"""Tokens of an answer that nobody limits, likewise."""

TAKES_USUALLY = (0.2, 0.0005, 0.02)
"""Seconds of a line by itself, of a token that is read and of one that is made, likewise."""

GUESSED = Speed()
"""Of what nothing was measured: everything follows from what is usual."""


def guessed(beside: float) -> Speed:
    """The same, of lines of which a server takes so many beside one another."""
    of_line, of_read, of_made = TAKES_USUALLY
    seconds = of_line + of_read * READ_USUALLY[0] + of_made * MADE_USUALLY
    return replace(GUESSED, seconds=seconds, gpu_seconds=seconds / beside)


FEW_ANSWERS = 20
"""Fewer do not tell how much alike they are in length."""

MOST_ALIKE = 16


def length(limit: float, part: float, alike: int = 1) -> float:
    """How long answers would be in the mean, if of a limit that all have this part is made in the mean.

    Answers that nearly all fill their limit tell only that they would be a good deal longer.
    """
    longest = max(25.0 * limit, MADE_USUALLY)
    if part <= 0:
        return 0.0
    low, high = 1e-9, 1e9  # of the limit as a multiple of the length, where `_part` falls from 1 to 0
    for _ in range(100):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if _part(middle, alike) > part else (low, middle)
    return min(limit / low, longest)


def made_within(of_length: float, lines: float, asked: float, alike: int = 1) -> float:
    """The tokens that answers of this length have, when so many lines allow so many together."""
    if lines <= 0 or asked <= 0 or of_length <= 0:
        return 0.0
    return asked * _part(asked / lines / of_length, alike)


def _part(multiple: float, alike: int) -> float:
    """Of a limit that is so many times the mean length of an answer, the part that is made. Lengths are taken to spread
    as Erlang's distribution does: at random where they are 1 alike, around their mean where they are more.
    """
    x = alike * multiple
    if x < 1e-12:
        return 1.0
    longer, term = -math.expm1(-x), math.exp(-x)
    total = longer
    for number in range(1, alike):
        term *= x / number
        longer = max(0.0, longer - term)
        total += longer
    return total / x


RIDGE = 1e-3
"""How much weight what is usual has beside what was measured: enough to decide where lines were all alike."""


def _fitted(products: Sequence[Sequence[float]], sums: Sequence[float], usual: Sequence[float]) -> tuple[float, ...]:
    """What each of some amounts takes, none of them less than nothing, by least squares from the sums of products.

    Where the lines do not tell two amounts apart, what is usual does, as a proportion: it is scaled to what was
    measured.
    """
    expected = sum(each * of for each, of in zip(usual, products[0], strict=True))
    if products[0][0] <= 0:
        return tuple(usual)  # nothing was measured
    if expected <= 0 or sums[0] <= 0:
        return (0.0,) * len(usual)
    scale = sums[0] / expected
    found = [each * scale for each in usual]
    own = list(found)
    for _ in range(2_000):
        moved = 0.0
        for at, row in enumerate(products):
            if row[at] <= 0:
                continue
            weight = RIDGE * row[at]
            rest = sum(each * of for other, (each, of) in enumerate(zip(found, row, strict=True)) if other != at)
            better = max(0.0, (sums[at] - rest + weight * own[at]) / (row[at] + weight))
            moved = max(moved, abs(better - found[at]) / (own[at] or 1.0))
            found[at] = better
        if moved < 1e-9:
            break
    return tuple(found)


def _number(value: Any) -> float:
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return max(0.0, float(value)) if is_number else 0.0


# -- facts -------------------------------------------------------------------------------------------------------------

Speeds = Mapping[tuple[str, str], Speed]
"""By tier and model."""


def known_speeds(entries: Mapping[str, Any]) -> dict[tuple[str, str], Speed]:
    """What finished batches measured, of entries of whatever sorts; what makes no sense is left out."""
    found = {}
    for key, document in entries.items():
        if key.startswith(keys.BATCH_SPEED):
            tier, _, model = key.removeprefix(keys.BATCH_SPEED).partition("/")
            speed = Speed.from_json(document)
            if speed.is_measured:
                found[tier, model] = speed
    return found


def learn(facts: DictLike, measured: Speeds, now: datetime) -> None:
    """Write down what a batch measured, with what was known before. Of two that end at once, one may be lost.

    Raises:
        StoreTrouble: it cannot be written; the next batch measures again.

    """
    for (tier, model), speed in sorted(measured.items()):
        if speed.is_measured:
            key = keys.batch_speed(tier, model)
            facts.put(key, speed.after(Speed.from_json(facts.get(key))).as_json(now))


def added(speeds: Iterable[Speed]) -> Speed:
    return sum(speeds, Speed())
