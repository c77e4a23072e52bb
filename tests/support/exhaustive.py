"""Every order of steps of several programs that share one store, to a depth, with equal states merged.

A state is the store, the time, and the place of each actor (see `tests.support.exhaustive_programs`). What a state
allows is one operation of any actor, a reply that is lost on its way, or time that passes.

Two kinds of steps are taken at once, because their order changes nothing for anybody: a read whose answer can no longer
change, and a look at a clock that will not move any more. A crash needs no step: an actor that is never moved again has
crashed, so what holds in each state holds after any crashes, and `Scenario.check` may let them all die there.
"""

import json
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NoReturn

from loguru import logger

from tests.support.exhaustive_programs import (
    LOST,
    LOST_ONCE,
    PASSES,
    UNKNOWN,
    Actor,
    Entries,
    Guess,
    Operation,
    Places,
    Tokens,
    Violation,
    no_guess,
)


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

_Step = tuple[int, Operation, Any] | None
"""The number of the actor, its operation, and the reply; None where time passes."""


@dataclass(frozen=True)
class _Settling:
    """When the order of an operation and what others do changes nothing: `always`, once time passes no more
    (`at_last`), or, of a read of `key`, when it `is_once` and there, or nobody who writes it is still at work."""

    always: bool = False
    at_last: bool = False
    key: str | None = None
    is_once: bool = False
    writers: frozenset[int] = frozenset()


class Search:
    """One search of a scenario.

    Raises:
        Violation: with the steps that lead there.

    """

    def __init__(self, scenario: Scenario) -> None:
        self._scenario = scenario
        self._way: dict[State, tuple[State, _Step] | None] = {}
        self._steps = 0
        self._switches: int | None = None
        self._tokens = Tokens()
        self._settling: dict[Operation, _Settling] = {}
        try:
            with self._tokens.drawn():
                self._stores = _Stores(scenario)
                self._places = [Places(actor, self._tokens) for actor in scenario.actors]
        except Violation as violation:
            raise Violation(f"{violation}, before any step") from None

    def run(self, *, states: int | None = None, depth: int | None = None, switches: int | None = None) -> Searched:
        """All orders to `depth`, or until so many states are known, the shallow ones first.

        With `switches`, of those orders the ones in which so often at most another actor is moved before the one that
        moved has done its work; the deep ones first.
        """
        with self._tokens.drawn():
            return self._run(states, depth, switches)

    def _run(self, states: int | None, depth: int | None, switches: int | None) -> Searched:
        began = time.monotonic()
        self._switches = switches
        first = (self._stores.first, 0, 0, _NOBODY, 0, *(places.first.number for places in self._places))
        self._way |= dict.fromkeys(self._settled(first))
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

    def _after(self, state: State) -> Iterator[tuple[State, _Step]]:
        """The states that one step leads to, and the step."""
        store, moment = state[:2]
        try:
            standing = self._standing(state)
            for index, operation in standing:
                turned = self._turned(state, index)
                if turned is None:
                    continue
                for moved, reply in self._done(turned, index, operation):
                    step = index, operation, reply
                    for settled in self._settled(moved):
                        yield settled, step
            if moment < self._scenario.moments and standing:
                for settled in self._settled((store, moment + 1, *state[2:])):
                    yield settled, None
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

    def _standing(self, state: State) -> list[tuple[int, Operation]]:
        return [
            (index, operation)
            for index, places in enumerate(self._places)
            if (operation := places.all[state[_PLACES + index]].operation) is not None
        ]

    def _done(self, state: State, index: int, operation: Operation) -> list[tuple[State, Any]]:
        """What comes of an actor's operation, and the reply: several where there is a choice, or one can be lost."""
        store, moment, lost = state[:3]
        self._steps += 1
        match operation[0]:
            case "choose":
                return [(self._moved(state, index, store, lost, option), option) for option in operation[1:]]
            case "now":
                seconds = moment * PASSES.total_seconds()
                return [(self._moved(state, index, store, lost, seconds), seconds)]
        self._expect_allowed(index, operation)
        after, reply = self._stores.move(store, operation)
        done = [(self._moved(state, index, after, lost, reply), reply)]
        if operation[0] in {"put", "pop"} and lost < self._scenario.lost_replies:
            done += [(self._moved(state, index, after, lost + 1, told), told) for told in (LOST_ONCE, LOST)]
        return done

    def _moved(self, state: State, index: int, store: int, lost: int, reply: Any) -> State:
        places = self._places[index]
        place = places.all[state[_PLACES + index]]
        after = place.after.get(reply) or places.next(place, reply, self._guess(store, state[1]))
        return store, state[1], lost, *state[3 : _PLACES + index], after.number, *state[_PLACES + index + 1 :]

    def _guess(self, store: int, moment: int) -> Guess:
        """What a program is told from here on if nobody else moves and no reply is lost.

        Only where the deep orders are tried first: the search goes there next, but for a few steps.
        """
        if self._switches is None:
            return no_guess

        def guess(operation: Operation) -> Any:
            nonlocal store
            match operation[0]:
                case "choose":
                    return operation[1]
                case "now":
                    return moment * PASSES.total_seconds()
            try:
                store, reply = self._stores.move(store, operation)
            except Violation:  # told by the search, once it is here
                return UNKNOWN
            return reply

        return guess

    def _settled(self, state: State) -> list[State]:
        """The states after all steps whose order changes nothing."""
        standing = self._standing(state)
        for index, operation in standing:
            if self._is_settled(state, operation, standing):
                return [settled for moved, _ in self._done(state, index, operation) for settled in self._settled(moved)]
        return [state]

    def _is_settled(self, state: State, operation: Operation, standing: list[tuple[int, Operation]]) -> bool:
        known = self._settling.get(operation)
        if known is None:
            known = self._settling[operation] = self._settling_of(operation)
        if known.always or (known.at_last and state[1] == self._scenario.moments):
            return True
        if known.key is None:
            return False
        if known.is_once and known.key in self._stores.all[state[0]]:
            return True
        return not any(index in known.writers for index, _ in standing)

    def _settling_of(self, operation: Operation) -> _Settling:
        match operation[0]:
            case "choose" | "check":
                return _Settling(always=True)
            case "now":
                return _Settling(at_last=True)
            case "get":
                key = operation[1]
                writers = [i for i, actor in enumerate(self._scenario.actors) if key.startswith(actor.writes)]
                return _Settling(key=key, is_once=key.startswith(self._scenario.once), writers=frozenset(writers))
        return _Settling()

    def _expect_allowed(self, index: int, operation: Operation) -> None:
        """The reductions are right only if nobody writes what he has not said that he writes."""
        actor = self._scenario.actors[index]
        if operation[0] in {"put", "pop"} and not operation[1].startswith(actor.writes):
            raise AssertionError(f"{actor.name} writes {operation[1]}; say so in its `writes`")

    def _fail(self, state: State, violation: Violation) -> NoReturn:
        steps = []
        at = self._way.get(state)
        while at is not None:
            steps.append(self._words(at[1]))
            at = self._way.get(at[0])
        raise Violation("\n  ".join([f"{violation}; after", *reversed(steps)])) from None

    def _words(self, step: _Step) -> str:
        if step is None:
            return "time passes"
        index, operation, reply = step
        name = self._scenario.actors[index].name
        match operation[0]:
            case "choose":
                return f"{name}: choose {reply}"
            case "now":
                return f"{name}: now {reply:.0f} s"
        return f"{name}: {' '.join(map(str, operation))} -> {_short(reply)}"


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
