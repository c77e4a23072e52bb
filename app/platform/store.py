"""Modal's Dict and Queue as the ledger wants them, each call with a limit."""

from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping
from datetime import timedelta
from typing import Any, TypeVar

import modal

from app.platform.calls import run
from app.platform.limits import LIMITS, CallLimits
from jobs.core.retry import NEVER, Policy
from jobs.core.units import counted
from jobs.store.prefixes import beginning

T = TypeVar("T")


class LimitedDict:
    """A `modal.Dict` as the ledger wants it. All raise `StoreTrouble`; `put` and `pop` may have taken effect even so.

    What is tried again may be done twice: a conditional put says False the second time, and whoever wants to know reads
    its own token back; a `pop` says that nothing was there. Modal's own client does the same.
    """

    def __init__(self, entries: modal.Dict, limits: CallLimits = LIMITS) -> None:
        self._entries = entries
        self._limits = limits

    def put(self, key: Any, value: Any, *, skip_if_exists: bool = False) -> bool:
        return self._run(
            f"writing {key} to the ledger", lambda: self._entries.put.aio(key, value, skip_if_exists=skip_if_exists)
        )

    def get(self, key: Any, default: Any = None) -> Any:
        return self._run(f"reading {key} of the ledger", lambda: self._entries.get.aio(key, default))

    def pop(self, key: Any, default: Any = None) -> Any:
        return self._run(f"removing {key} from the ledger", lambda: self._entries.pop.aio(key, default))

    def update(self, other: Mapping[Any, Any], /) -> None:
        what = counted(len(other), "entry", "entries")
        self._run(f"writing {what} to the ledger", lambda: self._entries.update.aio(other))

    def remove_all(self, keys: Iterable[str], /) -> int:
        return sum(self.pop(key) is not None for key in keys)

    def keys(self, *prefixes: str) -> Iterator[Any]:
        """Modal's Dict streams all of its keys, whichever are wanted; for `items`, all of its entries."""
        return beginning(self._all("listing the ledger", self._entries.keys.aio), prefixes)

    def items(self, *prefixes: str) -> Iterator[tuple[Any, Any]]:
        every = dict(self._all("reading all of the ledger", self._entries.items.aio))
        return ((key, every[key]) for key in beginning(every, prefixes))

    def _run(self, doing: str, call: Callable[[], Coroutine[Any, Any, T]]) -> T:
        return run(call, of="store", doing=doing, within=self._limits.entry, retry=self._limits.retry)

    def _all(self, doing: str, stream: Callable[[], Any]) -> list[Any]:
        count = 0  # over all tries; grown by the thread that runs the calls, read by whoever waits

        async def gather() -> list[Any]:
            nonlocal count
            entries = []
            async for each in stream():
                entries.append(each)
                count += 1
            return entries

        return run(
            gather, of="store", doing=doing, within=self._limits.listing, retry=self._limits.retry, moved=lambda: count
        )


class LimitedQueue:
    """A `modal.Queue` as the ledger wants it. All raise `StoreTrouble`, beside `queue.Full` and `queue.Empty`.

    A `get` that was given up may have taken an entry with it, and a `put` may put it twice: a sweep puts it again, and
    a worker that gets one too many finds nothing to do.
    """

    def __init__(self, entries: modal.Queue, limits: CallLimits = LIMITS) -> None:
        self._entries = entries
        self._limits = limits

    def put(self, v: Any, block: bool = True, *, partition: str | None = None) -> None:
        self._run(
            f"putting a job into lane {partition}",
            lambda: self._entries.put.aio(v, block, partition=partition),
            waits=None if block else 0,
            retry=NEVER if block else self._limits.retry,
        )

    def put_many(self, vs: list[Any], block: bool = True, *, partition: str | None = None) -> None:
        self._run(
            f"putting {counted(len(vs), 'job')} into lane {partition}",
            lambda: self._entries.put_many.aio(vs, block, partition=partition),
            waits=None if block else 0,
            retry=NEVER if block else self._limits.retry,
        )

    def get(self, block: bool = True, timeout: float | None = None, *, partition: str | None = None) -> Any:
        """Once: whoever waits for an entry asks again by himself."""
        return self._run(
            f"waiting for a job in lane {partition}",
            lambda: self._entries.get.aio(block, timeout, partition=partition),
            waits=timeout if block else 0,
            retry=NEVER,
        )

    def len(self, *, partition: str | None = None) -> int:
        return self._run(
            f"counting the jobs in lane {partition}",
            lambda: self._entries.len.aio(partition=partition),
            waits=0,
            retry=self._limits.retry,
        )

    def _run(self, doing: str, call: Callable[[], Coroutine[Any, Any, T]], *, waits: float | None, retry: Policy) -> T:
        """`waits`: the seconds for which the call itself is meant to wait; None is a day, which is for ever here."""
        meant = timedelta(days=1) if waits is None else timedelta(seconds=max(0.0, waits))
        return run(call, of="store", doing=doing, within=self._limits.entry + meant, retry=retry)
