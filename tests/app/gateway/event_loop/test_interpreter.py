"""Promises of the settings for serving: no collection goes through what was there before; circles go all the same."""

import gc
import http.client
import json
import sys
import weakref
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from app.gateway.event_loop.interpreter import SWITCH_SECONDS, THRESHOLDS, ServingInterpreter
from app.gateway.http_cycle import HttpCycle
from app.gateway.inference.proxy import _ProxiedRequest
from app.gateway.protocol.exchange import Exchange
from tests.support.call_counts import uncollected
from tests.support.dialects import DIALECTS, Dialect, whole_answer
from tests.support.gateways import RunningGateway, gateway
from tests.support.scripted_server import ScriptedServer
from tests.support.waiting import PATIENCE


@pytest.fixture
def serving() -> Iterator[ServingInterpreter]:
    """This process, set for serving."""
    interpreter = ServingInterpreter()
    interpreter.start()
    yield interpreter
    interpreter.stop()


@dataclass
class Collections:
    """How many objects each collection of all went through; and how many collections there were."""

    walked: list[int] = field(default_factory=list)
    count: int = 0

    def note(self, phase: str, about: dict[str, Any]) -> None:
        if phase == "start":
            self.count += 1
            if about["generation"] == 2:
                self.walked.append(len(gc.get_objects()))


@pytest.fixture
def collections() -> Iterator[Collections]:
    seen = Collections()
    gc.callbacks.append(seen.note)
    yield seen
    gc.callbacks.remove(seen.note)


@pytest.fixture
def running(tmp_path: Path) -> Iterator[RunningGateway]:
    with ScriptedServer(whole_answer) as server, gateway(tmp_path, {"a10g": server.url}) as found:
        yield found


class Node:
    """One that refers to itself."""

    def __init__(self) -> None:
        self.me = self


def test_what_was_there_is_not_gone_through(serving: ServingInterpreter, collections: Collections) -> None:
    """Neither by a collection of all, nor by those that Python makes by itself while circles come and go."""
    frozen = gc.get_freeze_count()
    assert frozen > 50_000
    for _ in range(40 * THRESHOLDS[0]):
        Node()
    gc.collect()
    assert collections.walked
    assert max(collections.walked) < frozen / 2
    assert gc.get_freeze_count() > 0.9 * frozen
    assert serving is not None


def test_circles_go_by_themselves(serving: ServingInterpreter) -> None:
    """Young ones soon; those that had grown old when they became circles in the end."""
    young = Node()
    old = [Node() for _ in range(10)]
    seen = [weakref.ref(young), *map(weakref.ref, old)]
    for _ in range(3):
        gc.collect(1)  # by now they are of the oldest generation
    del young, old
    for _ in range(200 * THRESHOLDS[0]):
        kept = [Node() for _ in range(20)]
        if not any(each() for each in seen):
            break
    assert not any(each() for each in seen)
    assert kept
    assert serving is not None


@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda dialect: dialect.name)
def test_a_request_leaves_no_circle(running: RunningGateway, dialect: Dialect) -> None:
    """What was made for it goes when it ends, without the collector."""
    line = http.client.HTTPConnection("127.0.0.1", running.port, timeout=PATIENCE)

    def there() -> int:
        names = Counter(type(each).__qualname__ for each in gc.get_objects())
        return names[_ProxiedRequest.__name__] + names[Exchange.__name__] + names[HttpCycle.__name__]

    gc.collect()
    with uncollected():
        before = there()
        for _ in range(20):
            line.request("POST", dialect.path, json.dumps(dialect.body))
            line.getresponse().read()
        assert there() < before + 20
    line.close()


def test_what_is_learnt_later_is_frozen_too(serving: ServingInterpreter) -> None:
    """As the models that came by a pull: only what has come since is gone through."""
    models = [Node() for _ in range(10_000)]
    serving.keep()
    assert gc.get_count()[0] < len(models)
    assert not any(type(each) is Node for each in gc.get_objects())
    models.clear()


def test_at_the_end_it_is_as_it_was() -> None:
    """Nothing is frozen any more, and the settings are Python's own again."""
    before = gc.get_threshold(), sys.getswitchinterval()
    interpreter = ServingInterpreter()
    interpreter.start()
    assert gc.get_threshold() == THRESHOLDS
    assert sys.getswitchinterval() == pytest.approx(SWITCH_SECONDS)
    interpreter.stop()
    assert (gc.get_threshold(), sys.getswitchinterval()) == before
    assert gc.get_freeze_count() == 0


def test_before_the_start_nothing_is_frozen() -> None:
    """What is known is refreshed once before."""
    ServingInterpreter().keep()
    assert gc.get_freeze_count() == 0
