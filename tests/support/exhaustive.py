"""Every order of steps of several programs that share one store, to a depth, with equal states merged.

A program is run again from its beginning with the replies that it has had, up to the first operation that has no reply
yet: so what it is at depends on its replies alone, two actors that had the same ones are in the same place, and each
such place is computed once. A state is the store, the time, and the place of each actor. What a state allows is one
operation of any actor, a reply that is lost on its way, or time that passes.

Two kinds of steps are taken at once, because their order changes nothing for anybody: a read whose answer can no longer
change, and a look at a clock that will not move any more. A crash needs no step: an actor that is never moved again has
crashed, so what holds in each state holds after any crashes, and `Scenario.check` may let them all die there.
"""

import json
import secrets
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from threading import Event
from typing import Any, NoReturn
from unittest import mock

from loguru import logger

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
    """The program stands before this operation. No program may catch it."""

    def __init__(self, operation: Operation) -> None:
        self.operation = operation


class View:
    """What one actor's program sees: a store, a queue, a clock, and choices, all from the replies it has had."""

    def __init__(self, name: str, replies: tuple[Any, ...], seconds: float) -> None:
        self.name = name
        self.facts = _Facts(self)
        self.queue = NoQueue()
        self.clock = _Clock(self)
        self.seconds = seconds
        """Since `BEGIN`, when it last looked at the clock."""
        self.looks: list[float] = []
        """The same for each look of this phase."""
        self._replies = iter(replies)
        self._tokens = 0

    def ask(self, *operation: Any) -> Any:
        """The reply to an operation.

        The program's own, of `Scenario.do`, begin with `do`, or with `check` where they only look and judge.
        """
        for reply in self._replies:
            return reply
        raise _Needed(operation)

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


@dataclass(frozen=True)
class Scenario:
    """Who shares the store, what holds in each state, and how far to go.

    Args:
        actors: who shares it.
        store: what is there at the beginning.
        once: the beginnings of keys that are written once and never removed.
        check: raises `Violation` where the store breaks a promise.
        do: an operation of the programs' own on the store: the entries it changes (None removes), and its reply.
        moments: how often time passes.
        lost_replies: how many replies are lost in all.

    """

    actors: tuple[Actor, ...]
    store: Mapping[str, Any]
    once: tuple[str, ...]
    check: Callable[[Entries], None]
    do: Callable[[Entries, Operation], tuple[Mapping[str, str | None], Any]]
    moments: int = 1
    lost_replies: int = 1


@dataclass(frozen=True)
class Searched:
    """How far a search went.

    Args:
        states: those that differ.
        ends: those among them in which nothing can happen any more.
        steps: operations done.
        depth: how many steps deep all orders were tried; with `switches`, how many the longest one has.
        is_complete: no state is left from which a step was not tried.
        seconds: it took.

    """

    states: int
    ends: int
    steps: int
    depth: int
    is_complete: bool
    seconds: float


class _Place:
    """Where an actor is: before an operation, or at the end of its work (then `operation` is None)."""

    __slots__ = ("after", "number", "operation", "phase", "replies", "seconds")

    def __init__(self, number: int, phase: Phase | None, replies: tuple[Any, ...], seconds: float) -> None:
        self.number = number
        self.phase = phase
        self.replies = replies
        self.seconds = seconds
        self.operation: Operation | None = None
        self.after: dict[Any, _Place] = {}


class _Places:
    """The places of one actor, each once."""

    def __init__(self, actor: Actor) -> None:
        self._actor = actor
        self._known: dict[Any, _Place] = {}
        self.all: list[_Place] = []
        self.first = self._at(actor.begin, (), 0.0)

    def next(self, place: _Place, reply: Any) -> _Place:
        after = place.after.get(reply)
        if after is None:
            after = place.after[reply] = self._at(place.phase, (*place.replies, reply), place.seconds)
        return after

    def _at(self, phase: Phase | None, replies: tuple[Any, ...], seconds: float) -> _Place:
        while phase is not None:
            view = View(f"{self._actor.name}.{'.'.join(map(str, phase.key))}", replies, seconds)
            try:
                with _tokens(view):
                    phase = phase.run(view)
            except _Needed as needed:
                place = self._once(phase, replies, seconds)
                place.operation = needed.operation
                return place
            replies, seconds = (), view.seconds
        return self._once(None, (), 0.0)

    def _once(self, phase: Phase | None, replies: tuple[Any, ...], seconds: float) -> _Place:
        key = (phase.key if phase else None, replies, seconds)
        if key not in self._known:
            self._known[key] = _Place(len(self.all), phase, replies, seconds)
            self.all.append(self._known[key])
        return self._known[key]


@contextmanager
def _tokens(view: View) -> Iterator[None]:
    """Every token that is drawn in here is the same the next time."""

    def token_hex(_: int) -> str:
        return view.token()

    with (
        mock.patch.object(secrets, "token_hex", token_hex),
        mock.patch.object(secrets, "choice", lambda options: options[0]),
    ):
        yield


class _Stores:
    """The contents that the store can have, each once, by number."""

    def __init__(self, scenario: Scenario) -> None:
        self._scenario = scenario
        self._numbers: dict[frozenset[tuple[str, str]], int] = {}
        self._moves: dict[tuple[int, Operation], tuple[int, Any]] = {}
        self.all: list[dict[str, str]] = []
        self.first = self._number({key: json.dumps(value, sort_keys=True) for key, value in scenario.store.items()})

    def move(self, store: int, operation: Operation) -> tuple[int, Any]:
        """The store after an operation, and the reply."""
        known = self._moves.get((store, operation))
        if known is None:
            known = self._moves[store, operation] = self._moved(store, operation)
        return known

    def _moved(self, store: int, operation: Operation) -> tuple[int, Any]:
        entries = self.all[store]
        match operation:
            case ("get", key):
                return store, entries.get(key)
            case ("items", *prefixes):
                begins = tuple(prefixes) or ("",)
                return store, tuple(sorted(entry for entry in entries.items() if entry[0].startswith(begins)))
            case ("put", key, text, skip):
                if skip and key in entries:
                    return store, False
                return self._number({**entries, key: text}), True
            case ("pop", key):
                return self._number({k: text for k, text in entries.items() if k != key}), entries.get(key)
            case ("do" | "check", *_):
                changed, reply = self._scenario.do(entries, operation)
                left = {key: text for key, text in {**entries, **changed}.items() if text is not None}
                return self._number(left), reply
        raise ValueError(operation)

    def _number(self, entries: dict[str, str]) -> int:
        key = frozenset(entries.items())
        number = self._numbers.get(key)
        if number is None:
            self._scenario.check(entries)
            number = self._numbers[key] = len(self.all)
            self.all.append(entries)
        return number


State = tuple[int, ...]
"""The store's number, the moment, the lost replies, who moved last, how often another one was moved in the midst of
somebody's work, and the number of each actor's place. The fourth and fifth stay where switches are not counted."""
_PLACES = 5
_NOBODY = -1


class Search:
    """One search of a scenario.

    Raises:
        Violation: with the steps that lead there.

    """

    def __init__(self, scenario: Scenario) -> None:
        self._scenario = scenario
        self._way: dict[State, tuple[State, str] | None] = {}
        self._steps = 0
        self._switches: int | None = None
        try:
            self._stores = _Stores(scenario)
            self._places = [_Places(actor) for actor in scenario.actors]
        except Violation as violation:
            raise Violation(f"{violation}, before any step") from None

    def run(self, *, states: int | None = None, depth: int | None = None, switches: int | None = None) -> Searched:
        """All orders to `depth`, or until so many states are known, the shallow ones first.

        With `switches`, of those orders the ones in which so often at most another actor is moved before the one that
        was moved has done its work; the deep ones first.
        """
        began = time.monotonic()
        self._switches = switches
        first = (self._stores.first, 0, 0, _NOBODY, 0, *(places.first.number for places in self._places))
        self._way |= dict.fromkeys(each for each, _ in self._settled(first, ""))
        left = deque((state, 0) for state in self._way)
        ends = deepest = 0
        is_cut = False
        while left and (states is None or len(self._way) < states):
            state, steps = left.popleft() if switches is None else left.pop()
            if depth is not None and steps >= depth:
                is_cut = True
                continue
            is_end = True
            for after, step in self._after(state):
                is_end = False
                if after not in self._way:
                    self._way[after] = state, step
                    left.append((after, steps + 1))
                    deepest = max(deepest, steps + 1)
            ends += is_end
        tried = left[0][1] if left and switches is None else deepest
        is_complete = not left and not is_cut
        return Searched(len(self._way), ends, self._steps, tried, is_complete, time.monotonic() - began)

    def _after(self, state: State) -> Iterator[tuple[State, str]]:
        """The states that one step leads to, and the step."""
        store, moment = state[:2]
        try:
            for index, operation in self._standing(state):
                turned = self._turned(state, index)
                if turned is None:
                    continue
                name = self._scenario.actors[index].name
                for moved, step in self._done(turned, index, operation):
                    yield from self._settled(moved, f"{name}: {step}")
            if moment < self._scenario.moments and any(True for _ in self._standing(state)):
                yield from self._settled((store, moment + 1, *state[2:]), "time passes")
        except Violation as violation:
            self._fail(state, violation)

    def _turned(self, state: State, index: int) -> State | None:
        """The state in which it is this actor's turn; None where that is one switch too many."""
        if self._switches is None:
            return state
        last, switches = state[3:_PLACES]
        if last not in {index, _NOBODY} and self._places[last].all[state[_PLACES + last]].operation is not None:
            switches += 1
        return None if switches > self._switches else (*state[:3], index, switches, *state[_PLACES:])

    def _standing(self, state: State) -> Iterator[tuple[int, Operation]]:
        for index, places in enumerate(self._places):
            operation = places.all[state[_PLACES + index]].operation
            if operation is not None:
                yield index, operation

    def _done(self, state: State, index: int, operation: Operation) -> Iterator[tuple[State, str]]:
        """What comes of an actor's operation: more than one state, where there is a choice or a reply can be lost."""
        store, moment, lost = state[:3]
        self._steps += 1
        match operation[0]:
            case "choose":
                for option in operation[1:]:
                    yield self._moved(state, index, store, lost, option), f"choose {option}"
            case "now":
                seconds = moment * PASSES.total_seconds()
                yield self._moved(state, index, store, lost, seconds), f"now {seconds:.0f} s"
            case _:
                self._expect_allowed(index, operation)
                after, reply = self._stores.move(store, operation)
                words = " ".join(map(str, operation))
                yield self._moved(state, index, after, lost, reply), f"{words} -> {_short(reply)}"
                if operation[0] in {"put", "pop"} and lost < self._scenario.lost_replies:
                    for told in (LOST_ONCE, LOST):
                        yield self._moved(state, index, after, lost + 1, told), f"{words} -> {told}"

    def _moved(self, state: State, index: int, store: int, lost: int, reply: Any) -> State:
        places = self._places[index]
        after = places.next(places.all[state[_PLACES + index]], reply).number
        return store, state[1], lost, *state[3 : _PLACES + index], after, *state[_PLACES + index + 1 :]

    def _settled(self, state: State, step: str) -> Iterator[tuple[State, str]]:
        """The state after all steps whose order changes nothing."""
        for index, operation in self._standing(state):
            if self._is_settled(state, operation):
                for moved, _ in self._done(state, index, operation):
                    yield from self._settled(moved, step)
                return
        yield state, step

    def _is_settled(self, state: State, operation: Operation) -> bool:
        match operation[0]:
            case "choose" | "check":
                return True
            case "now":
                return state[1] == self._scenario.moments
            case "get":
                key = operation[1]
                if key.startswith(self._scenario.once) and key in self._stores.all[state[0]]:
                    return True
                return not any(key.startswith(actor.writes) for actor in self._at_work(state))
        return False

    def _at_work(self, state: State) -> Iterator[Actor]:
        return (self._scenario.actors[index] for index, _ in self._standing(state))

    def _expect_allowed(self, index: int, operation: Operation) -> None:
        """The reductions are right only if nobody writes what he has not said that he writes."""
        actor = self._scenario.actors[index]
        if operation[0] in {"put", "pop"} and not operation[1].startswith(actor.writes):
            raise AssertionError(f"{actor.name} writes {operation[1]}; say so in its `writes`")

    def _fail(self, state: State, violation: Violation) -> NoReturn:
        steps = []
        at = self._way.get(state)
        while at is not None:
            steps.append(at[1])
            at = self._way.get(at[0])
        raise Violation("\n  ".join([f"{violation}; after", *reversed(steps)])) from None


def _short(reply: Any) -> str:
    return f"{len(reply)} entries" if isinstance(reply, tuple) else str(reply)


@contextmanager
def quiet() -> Iterator[None]:
    """No log lines of what is run over and over."""
    logger.disable("jobs")
    try:
        yield
    finally:
        logger.enable("jobs")
