"""Promises of the meter: how late the loop comes to a timer is observed, again and again until it is stopped."""

import asyncio
import time

import httpx
import pytest
import uvloop

from app.gateway.event_loop.lag import LagMeter
from tests.support.gateways import RunningGateway
from tests.support.waiting import PATIENCE, until

HELD_UP = 0.05


def hold_up() -> None:
    time.sleep(HELD_UP)


async def lags_while_held_up(count: int = 3) -> list[float]:
    """So many lags of a loop that is held up once the meter runs."""
    lags: list[float] = []
    enough = asyncio.Event()

    def observe(lag: float) -> None:
        lags.append(lag)
        if len(lags) >= count:
            enough.set()

    meter = LagMeter(observe, every_seconds=0.001)
    meter.start()
    hold_up()
    async with asyncio.timeout(PATIENCE):
        await enough.wait()
    meter.stop()
    return lags


async def lags_of_a_stopped_meter() -> list[float]:
    lags: list[float] = []
    meter = LagMeter(lags.append, every_seconds=0.001)
    meter.start()
    meter.stop()
    await asyncio.sleep(0.01)  # so long a timer that was still there would have come
    return lags


@pytest.mark.parametrize("new_loop", [uvloop.new_event_loop, asyncio.new_event_loop])
def test_a_loop_that_is_held_up_is_late(new_loop: "type[asyncio.AbstractEventLoop]") -> None:
    """By as long as it was; and it goes on being looked at."""
    with asyncio.Runner(loop_factory=new_loop) as runner:
        lags = runner.run(lags_while_held_up())
    assert lags[0] > 0.9 * HELD_UP - 0.002
    assert min(lags) >= 0


def test_a_stopped_meter_says_nothing() -> None:
    """The timer is taken back."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        assert runner.run(lags_of_a_stopped_meter()) == []


def test_a_gateway_has_the_meter(running: RunningGateway) -> None:
    """From its start on, a few times a second."""

    def counted() -> bool:
        lines = httpx.get(f"{running.url}/metrics", timeout=PATIENCE).text.splitlines()
        count = next(line for line in lines if line.startswith("ollama_modal_loop_lag_seconds_count "))
        return float(count.split()[1]) >= 2

    until(counted, "the second look")
