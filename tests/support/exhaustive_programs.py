"""The programs that a search runs, on a store and a clock whose replies are given, and the places where they stand.

A program is run again from its beginning with the replies that it has had, up to the first operation that has no reply
yet: so what it is at depends on its replies alone, two actors that had the same ones are in the same place, and each
such place is computed once. Where the replies to come can be guessed, one run goes on and finds all the places on that
way.
"""

import json
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from threading import Event
from typing import Any
from unittest import mock

from jobs.core.errors import StoreTrouble, StoreUnavailable

BEGIN = datetime(2026, 1, 1, tzinfo=UTC)
PASSES = timedelta(minutes=1)
"""What passes when time does: longer than any lease of the programs."""

Operation = tuple[Any, ...]
Entries = Mapping[str, str]
"""What a store holds: values as JSON text, by key."""

LOST_ONCE, LOST = "lost once", "lost"
"""Replies of a write that was done: the first try is told of a failure, or all of them are."""


class Violation(Exception):
    """A promise is broken, and this is the way there."""


class _Needed(BaseException):
    """The program stands before an operation of which no reply is known. No program may catch it."""


Beyond = Callable[[Operation], Any]
"""The reply to an operation beyond those whose replies are given, or it raises `_Needed`."""

Guess = Callable[[Operation], Any]
"""The reply to the next operation of a program if nobody else moves before it; `UNKNOWN` where that is not known."""

UNKNOWN = object()


class View:
    """What one actor's program sees: a store, a queue, a clock, and choices, all from the replies it has had."""

    def __init__(self, name: str, replies: tuple[Any, ...], seconds: float, beyond: "Beyond") -> None:
        self.name = name
        self.facts = _Facts(self)
        self.queue = NoQueue()
        self.clock = _Clock(self)
        self.seconds = seconds
        """Since `BEGIN`, when it last looked at the clock."""
        self.looks: list[float] = []
        """The same for each look of this phase."""
        self._replies = iter(replies)
        self._beyond = beyond
        self._tokens = 0

    def ask(self, *operation: Any) -> Any:
        """The reply to an operation.

        The program's own, of `Scenario.do`, begin with `do`, or with `check` where they only look and judge.
        """
        for reply in self._replies:
            return reply
        return self._beyond(operation)

    def choose(self, *options: Any) -> Any:
        return self.ask("choose", *options)

    def token(self) -> str:
        self._tokens += 1
        return f"{self.name}.{self._tokens}"


class _Facts:
    """The dict, as far as the ledger uses it."""

    def __init__(self, view: View) -> None:
        self._view = view

    def put(self, key: str, value: Any, *, skip_if_exists: bool = False) -> bool:
        return bool(self._written(self._view.ask("put", key, json.dumps(value, sort_keys=True), skip_if_exists)))

    def pop(self, key: str, default: Any = None) -> Any:
        text = self._written(self._view.ask("pop", key))
        return default if text is None else json.loads(text)

    def remove_all(self, keys: Iterable[str], /) -> int:
        return sum(self.pop(key) is not None for key in keys)

    def update(self, other: Mapping[str, Any], /) -> None:
        """As a platform may: any that fails leaves those before it written."""
        for key, value in other.items():
            self.put(key, value)

    def get(self, key: str, default: Any = None) -> Any:
        text = self._view.ask("get", key)
        return default if text is None else json.loads(text)

    def keys(self, *prefixes: str) -> Iterator[str]:
        return iter([key for key, _ in self._view.ask("items", *prefixes)])

    def items(self, *prefixes: str) -> Iterator[tuple[str, Any]]:
        return iter([(key, json.loads(text)) for key, text in self._view.ask("items", *prefixes)])

    def _written(self, reply: Any) -> Any:
        if reply == LOST_ONCE:
            raise StoreUnavailable("the first reply was lost")
        if reply == LOST:
            raise StoreTrouble("every reply was lost")
        return reply


class NoQueue:
    """A queue that loses everything: the ledger has to do without."""

    def put(self, v: Any, block: bool = True, *, partition: str | None = None) -> None:
        pass

    def put_many(self, vs: list[Any], block: bool = True, *, partition: str | None = None) -> None:
        pass

    def get(self, block: bool = True, timeout: float | None = None, *, partition: str | None = None) -> Any:
        return None

    def len(self, *, partition: str | None = None) -> int:
        return 0


class _Clock:
    """Looking at the time is a step; the seconds that nobody sets are those of the actor's last look."""

    def __init__(self, view: View) -> None:
        self._view = view

    def now(self) -> datetime:
        self._view.seconds = self._view.ask("now")
        self._view.looks.append(self._view.seconds)
        return BEGIN + timedelta(seconds=self._view.seconds)

    def monotonic(self) -> float:
        return self._view.seconds

    def wait(self, seconds: float, wake: Event | None = None) -> bool:
        return False


@dataclass(frozen=True)
class Phase:
    """A part of an actor's work. What was done before is forgotten at its end, but for what `run` gives to the next.

    Args:
        key: all that makes it differ from other phases of this actor, to merge those that do not.
        run: does it, and returns the next one, or None at the end of the work.

    """

    key: tuple[Any, ...]
    run: Callable[[View], "Phase | None"]


@dataclass(frozen=True)
class Actor:
    """One process.

    Args:
        name: of it, and of its tokens.
        begin: its first phase.
        writes: the beginnings of all keys that it may ever write.

    """

    name: str
    begin: Phase
    writes: tuple[str, ...]


class Place:
    """Where an actor is: before an operation, or at the end of its work (then `operation` is None)."""

    __slots__ = ("after", "number", "operation", "phase", "replies", "seconds")

    def __init__(self, number: int, phase: Phase | None, replies: tuple[Any, ...], seconds: float) -> None:
        self.number = number
        self.phase = phase
        self.replies = replies
        self.seconds = seconds
        self.operation: Operation | None = None
        self.after: dict[Any, Place] = {}


class Places:
    """The places of one actor, each once."""

    def __init__(self, actor: Actor, tokens: "Tokens") -> None:
        self._actor = actor
        self._tokens = tokens
        self._known: dict[Any, Place] = {}
        self.all: list[Place] = []
        self.first = self._at(actor.begin, (), 0.0, no_guess)

    def next(self, place: Place, reply: Any, guess: Guess) -> Place:
        after = place.after.get(reply)
        if after is None:
            after = self._at(place.phase, (*place.replies, reply), place.seconds, guess)
            place.after[reply] = after
        return after

    def _at(self, phase: Phase | None, replies: tuple[Any, ...], seconds: float, guess: Guess) -> Place:
        """The place after these replies; those after it, as far as the replies to come can be guessed, become known."""
        found: list[Place] = []
        guessed: list[Any] = []

        def beyond(operation: Operation) -> Any:
            nonlocal replies
            place, is_new = self._once(phase, replies, seconds)
            found.append(place)
            if not is_new:
                raise _Needed
            place.operation = operation
            with self._tokens.of(None):
                reply = guess(operation)
            if reply is UNKNOWN:
                raise _Needed
            guessed.append(reply)
            replies = (*replies, reply)
            return reply

        try:
            while phase is not None:
                view = View(f"{self._actor.name}.{'.'.join(map(str, phase.key))}", replies, seconds, beyond)
                with self._tokens.of(view):
                    phase = phase.run(view)
                replies, seconds = (), view.seconds
            found.append(self._once(None, (), 0.0)[0])
        except _Needed:
            pass
        except Violation:
            if not found:
                raise
            # The search meets it as well, on the way on which it tells of it.
        for before, reply, after in zip(found, guessed, found[1:], strict=False):
            before.after[reply] = after
        return found[0]

    def _once(self, phase: Phase | None, replies: tuple[Any, ...], seconds: float) -> tuple[Place, bool]:
        """The place, and whether it is new."""
        key = (phase.key if phase else None, replies, seconds)
        known = self._known.get(key)
        if known is not None:
            return known, False
        place = self._known[key] = Place(len(self.all), phase, replies, seconds)
        self.all.append(place)
        return place, True


def no_guess(_: Operation) -> Any:
    return UNKNOWN


class Tokens:
    """While a program runs, every token that it draws is the same the next time."""

    def __init__(self) -> None:
        self._view: View | None = None
        self._token_hex, self._choice = secrets.token_hex, secrets.choice

    @contextmanager
    def drawn(self) -> Iterator[None]:
        with (
            mock.patch.object(secrets, "token_hex", self._drawn_hex),
            mock.patch.object(secrets, "choice", self._drawn_choice),
        ):
            yield

    @contextmanager
    def of(self, view: View | None) -> Iterator[None]:
        """Those of this program; with None, of nobody's."""
        before, self._view = self._view, view
        try:
            yield
        finally:
            self._view = before

    def _drawn_hex(self, nbytes: int | None = None) -> str:
        return self._token_hex(nbytes) if self._view is None else self._view.token()

    def _drawn_choice(self, options: Sequence[Any]) -> Any:
        return self._choice(options) if self._view is None else options[0]
