"""What many ask is asked once for all of them, whatever becomes of it."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta

import pytest

from app.gateway.catalog.shared_answer import MadeOnce, SharedAnswer
from jobs.core.errors import StoreUnavailable
from tests.support.moved_clock import HandLoop


def run(work: Callable[[HandLoop], Awaitable[None]]) -> None:
    async def begun() -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, HandLoop)
        await work(loop)

    with asyncio.Runner(loop_factory=HandLoop) as runner:
        runner.run(begun())


class Store:
    """Answers when it is told to, with how often it was asked; or fails."""

    def __init__(self, *, fails: bool = False) -> None:
        self.asked = 0
        self.fails = fails
        self.answers = asyncio.Event()
        self.answers.set()

    async def __call__(self) -> int:
        self.asked += 1
        await self.answers.wait()
        if self.fails:
            raise StoreUnavailable("the store is away")
        return self.asked


def test_fifty_ask_once_within_seconds() -> None:
    """All who ask together share one answer, and so does who comes within the seconds that it serves; then a new one
    is asked for."""

    async def work(loop: HandLoop) -> None:
        store = Store()
        shared = SharedAnswer(store, timedelta(seconds=2))
        assert await asyncio.gather(*(shared() for _ in range(50))) == [1] * 50
        await loop.pass_seconds(1.5)
        assert await shared() == 1
        await loop.pass_seconds(1)
        assert (await shared(), store.asked) == (2, 2)

    run(work)


def test_a_store_that_fails_is_not_asked_by_each() -> None:
    """A failure is told to whoever asks within the same seconds, and asked about again after them."""

    async def work(loop: HandLoop) -> None:
        store = Store(fails=True)
        shared = SharedAnswer(store, timedelta(seconds=2))
        for _ in range(20):
            with pytest.raises(StoreUnavailable):
                await shared()
        assert store.asked == 1
        store.fails = False
        await loop.pass_seconds(3)
        assert await shared() == 2

    run(work)


def test_a_store_that_hangs_is_asked_one_question() -> None:
    """However long the answer takes there is one question under way; who leaves ends it for nobody."""

    async def work(loop: HandLoop) -> None:
        store = Store()
        store.answers.clear()
        shared = SharedAnswer(store, timedelta(seconds=2))
        waiting = [asyncio.ensure_future(shared()) for _ in range(20)]
        for _ in range(5):
            await loop.pass_seconds(60)
        waiting[0].cancel()
        waiting += [asyncio.ensure_future(shared(version="mine"))]
        await loop.pass_seconds(60)
        assert store.asked == 1
        store.answers.set()
        assert await asyncio.gather(*waiting[1:20]) == [1] * 19
        assert await waiting[20] == 2  # who changed something is shown what came after

    run(work)


def test_who_has_changed_something_is_shown_it_at_once() -> None:
    """An answer to a question that was asked before a change serves nobody who asks after it."""

    async def work(_: HandLoop) -> None:
        shared = SharedAnswer(Store(), timedelta(seconds=2))
        assert [await shared(1), await shared(1), await shared(2), await shared(2)] == [1, 1, 2, 2]

    run(work)


def test_an_answer_is_made_once_of_each_value() -> None:
    """What is made of one value is made once for each question; of another one all is made anew."""

    async def work(_: HandLoop) -> None:
        made, store, one, other = MadeOnce[int](most=2), Store(), object(), object()
        assert await asyncio.gather(*(made.of(one, "a", store) for _ in range(9))) == [1] * 9
        assert [await made.of(one, each, store) for each in "bca"] == [2, 3, 4]  # no more than two are kept
        assert await made.of(other, "a", store) == 5

    run(work)
