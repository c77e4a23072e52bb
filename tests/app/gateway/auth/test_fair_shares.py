"""Turns: so many of each key at once, and nobody waits for another key."""

import asyncio

from app.gateway.auth.fair_shares import Turns


def test_a_key_waits_for_itself_alone() -> None:
    """Of a key that asks a hundred times at once two are let in at a time; another key is let in at once."""
    inside: dict[str, int] = {"greedy": 0, "other": 0}
    most = dict(inside)

    async def ask(turns: Turns, key: str, go: asyncio.Event) -> None:
        async with turns.of(key):
            inside[key] += 1
            most[key] = max(most[key], inside[key])
            await go.wait()
            inside[key] -= 1

    async def run() -> None:
        turns, go = Turns(2), asyncio.Event()
        tasks = [asyncio.create_task(ask(turns, "greedy", go)) for _ in range(100)]
        await asyncio.sleep(0)
        tasks.append(asyncio.create_task(ask(turns, "other", go)))
        await asyncio.sleep(0)
        assert inside == {"greedy": 2, "other": 1}
        tasks[50].cancel()
        tasks[0].cancel()
        go.set()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert not turns._doors

    asyncio.run(run())
    assert most == {"greedy": 2, "other": 1}
