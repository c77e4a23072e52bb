"""Every call to Modal that `app` makes: each wait has a limit, is tried again while that helps, and fails in our words.

A call runs on one event loop of ours, so that whoever asked can stop waiting and the call itself is taken back: what it
held on to (a lock of the Volume, a stream of the connection) is free for the next one. A call that was given up may
have taken effect all the same; so only what may be done twice is tried again here.

    LimitedDict     a `modal.Dict`: a `ShrinkingDict` for the ledger
    LimitedQueue    a `modal.Queue`: a `QueueLike` for the ledger
    LimitedVolume   a `modal.Volume`, from inside a container: commit and reload
    Deployment      the Functions and servers of an app
"""

import asyncio
import concurrent.futures
import threading
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta
from decimal import Decimal
from typing import Any, TypeVar

import modal
from grpclib import GRPCError
from grpclib.exceptions import StreamTerminatedError
from loguru import logger

from app.platform.errors import FilesOpen, NotReloaded, Of, silence, trouble_of
from jobs.core.errors import NetworkTrouble, NotFound, ServerTrouble, Trouble
from jobs.core.retry import NEVER, Policy

T = TypeVar("T")


@dataclass(frozen=True)
class CallLimits:
    """How long the platform may take over one call, and how often it is asked."""

    question: timedelta = timedelta(seconds=10)
    """For one entry or one bell, which takes milliseconds: a beat is three of them, and a lease is a minute."""
    listing: timedelta = timedelta(seconds=30)
    """Between two entries of all of them."""
    request: timedelta = timedelta(seconds=30)
    """To look up a Function or a server, to call it, to ask whether it has answered."""
    commit: timedelta = timedelta(minutes=10)
    """A hundred gigabytes at half the pace that the platform speaks of; the client itself tries for 90 s of it."""
    reload: timedelta = timedelta(minutes=2)
    answer: timedelta = timedelta(minutes=20)
    """For the whole answer of a Function: its own limit, and a container that has to start."""
    moment: Policy = field(
        default_factory=lambda: Policy(attempts=5, within=timedelta(seconds=15), longest=timedelta(seconds=2))
    )
    """For what may be asked twice. The client gives up after 0.7 s, and at once where entries come as a stream."""
    publishing: Policy = field(
        default_factory=lambda: Policy(attempts=6, within=timedelta(minutes=2), longest=timedelta(seconds=15))
    )
    """For a commit, behind which lies a whole pull; one that meets another one is refused for now."""

    def shortened(self, seconds: float) -> "CallLimits":
        """No wait is longer than this."""
        most = timedelta(seconds=seconds)
        waits = ("question", "listing", "request", "commit", "reload")
        return replace(self, **{name: min(getattr(self, name), most) for name in waits})


LIMITS = CallLimits()

VARIABLE = "OLLAMA_MODAL_PLATFORM_SECONDS"


def limits_of(environ: Mapping[str, str]) -> CallLimits:
    """The limits, or shorter ones where a trial run says so."""
    said = environ.get(VARIABLE)
    return LIMITS.shortened(float(said)) if said else LIMITS


# -- waiting ---------------------------------------------------------------------------------------------------------


class _Waiting:
    """The loop on which calls wait, in a thread of its own. Started by the first call, whichever thread makes it."""

    def __init__(self) -> None:
        self._starting = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None  # under the lock until it runs, then never changed

    def begin(self, call: Coroutine[Any, Any, T]) -> "concurrent.futures.Future[T]":
        with self._starting:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                threading.Thread(target=self._loop.run_forever, name="platform-calls", daemon=True).start()
        return asyncio.run_coroutine_threadsafe(call, self._loop)


_waiting = _Waiting()


def _within(
    limit: timedelta,
    call: Callable[[], Coroutine[Any, Any, T]],
    *,
    of: Of,
    doing: str,
    moved: Callable[[], int] = lambda: 0,
) -> T:
    """What the call comes to. Its limit begins anew whenever it has moved.

    Raises:
        Trouble: the platform failed, or did not answer in time; `StoreTrouble` where it is the store.

    """
    future, before = _waiting.begin(call()), 0
    while True:
        try:
            return _outcome(future, limit.total_seconds())
        except _Silent:
            so_far = moved()
            if so_far > before:
                before = so_far
                continue
            future.cancel()
            raise silence(of, doing, limit.total_seconds()) from None
        except Exception as error:
            if isinstance(error, Trouble) or (trouble := trouble_of(error, of, doing)) is None:
                raise
            raise trouble from error
        except BaseException:  # somebody interrupts us: the call is of no use to anybody
            future.cancel()
            raise


class _Silent(Exception):
    """No answer in time: unlike a TimeoutError, this cannot be the answer."""


def _outcome(future: "concurrent.futures.Future[T]", seconds: float) -> T:
    done, _ = concurrent.futures.wait([future], seconds)
    if not done:
        raise _Silent
    return future.result()


def _patiently(policy: Policy, call: Callable[[], T]) -> T:
    """Tried again as the policy says, when that can help."""
    return policy.call(call, sleep=time.sleep, before_retry=lambda trouble: logger.info("tried again: {}", trouble))


# -- the store -------------------------------------------------------------------------------------------------------


class LimitedDict:
    """A `modal.Dict` as the ledger wants it. All raise `StoreTrouble`; `put` and `pop` may have taken effect even so.

    What is tried again may be done twice: a conditional put says False the second time, and whoever wants to know reads
    its own token back; a `pop` says that nothing was there. Modal's own client does the same.
    """

    def __init__(self, entries: modal.Dict, limits: CallLimits = LIMITS) -> None:
        self._entries = entries
        self._limits = limits

    def put(self, key: Any, value: Any, *, skip_if_exists: bool = False) -> bool:
        return self._asked(
            f"writing {key} to the ledger",
            lambda: self._entries.put.aio(key, value, skip_if_exists=skip_if_exists),
        )

    def get(self, key: Any, default: Any = None) -> Any:
        return self._asked(f"reading {key} of the ledger", lambda: self._entries.get.aio(key, default))

    def pop(self, key: Any, default: Any = None) -> Any:
        return self._asked(f"removing {key} from the ledger", lambda: self._entries.pop.aio(key, default))

    def keys(self) -> Iterator[Any]:
        return iter(self._all("listing the ledger", self._entries.keys.aio))

    def items(self) -> Iterator[tuple[Any, Any]]:
        return iter(self._all("reading all of the ledger", self._entries.items.aio))

    def _asked(self, doing: str, call: Callable[[], Coroutine[Any, Any, T]]) -> T:
        def once() -> T:
            return _within(self._limits.question, call, of="store", doing=doing)

        return _patiently(self._limits.moment, once)

    def _all(self, doing: str, stream: Callable[[], Any]) -> list[Any]:
        def once() -> list[Any]:
            found: list[Any] = []

            async def gather() -> list[Any]:
                async for each in stream():
                    found.append(each)  # noqa: PERF401 - one by one: whoever waits looks at how many there are
                return found

            return _within(self._limits.listing, gather, of="store", doing=doing, moved=lambda: len(found))

        return _patiently(self._limits.moment, once)


class LimitedQueue:
    """A `modal.Queue` as the ledger wants it. All raise `StoreTrouble`, beside `queue.Full` and `queue.Empty`.

    A `get` that was given up may have taken a bell with it, and a `put` may ring twice: a sweep rings again, and
    whoever hears a bell too many finds nothing to do.
    """

    def __init__(self, bells: modal.Queue, limits: CallLimits = LIMITS) -> None:
        self._bells = bells
        self._limits = limits

    def put(
        self,
        v: Any,
        block: bool = True,
        timeout: float | None = None,
        *,
        partition: str | None = None,
        partition_ttl: int = 86400,
    ) -> None:
        doing = f"ringing in lane {partition}"
        limit = self._longer_by(timeout if block else 0)

        def once() -> None:
            _within(
                limit,
                lambda: self._bells.put.aio(v, block, timeout, partition=partition, partition_ttl=partition_ttl),
                of="store",
                doing=doing,
            )

        _patiently(NEVER if block else self._limits.moment, once)

    def get(self, block: bool = True, timeout: float | None = None, *, partition: str | None = None) -> Any:
        """Once: whoever waits for a bell asks again by himself."""
        return _within(
            self._longer_by(timeout if block else 0),
            lambda: self._bells.get.aio(block, timeout, partition=partition),
            of="store",
            doing=f"waiting for a bell in lane {partition}",
        )

    def len(self, *, partition: str | None = None, total: bool = False) -> int:
        doing = f"counting the bells of lane {partition}"

        def once() -> int:
            return _within(
                self._limits.question,
                lambda: self._bells.len.aio(partition=partition, total=total),
                of="store",
                doing=doing,
            )

        return _patiently(self._limits.moment, once)

    def _longer_by(self, timeout: float | None) -> timedelta:
        """The limit of a call that is meant to wait by itself; without a timeout, a day, which is for ever here."""
        return self._limits.question + (timedelta(days=1) if timeout is None else timedelta(seconds=max(0.0, timeout)))


# -- the volume ------------------------------------------------------------------------------------------------------


class LimitedVolume:
    """A `modal.Volume`, in a container that mounts it."""

    def __init__(self, volume: modal.Volume, limits: CallLimits = LIMITS) -> None:
        self._volume = volume
        self._limits = limits

    def commit(self) -> None:
        """Make what is written here visible elsewhere.

        Raises:
            NetworkTrouble: the platform does not take it now; what is written stays here, and may be committed later.
            Trouble: it never will.

        """

        def once() -> None:
            _within(self._limits.commit, self._volume.commit.aio, of="service", doing="committing the volume")

        _patiently(self._limits.publishing, once)

    def reload(self, within: timedelta | None = None) -> None:
        """Bring in what others committed. Once: whoever wants it soon knows how soon.

        Args:
            within: less than the usual limit, where somebody is held up meanwhile.

        Raises:
            FilesOpen: it stays as it was until a file there is closed.
            NotReloaded: a RuntimeError, too. It stays as it was, for now.
            Trouble: and for ever.

        """
        usual = self._limits.reload
        limit = usual if within is None else min(within, usual)
        try:
            _within(limit, self._volume.reload.aio, of="service", doing="reloading the volume")
        except NetworkTrouble as trouble:
            # The client makes a plain RuntimeError of FAILED_PRECONDITION, and of nothing else that is for now.
            kind = FilesOpen if type(trouble.__cause__) is RuntimeError else NotReloaded
            raise kind(str(trouble), hint=trouble.hint) from trouble


# -- functions and servers -------------------------------------------------------------------------------------------

_SLICE = 20.0
"""Seconds for which a Function is asked for its answer at a time."""

_ENDINGS = (
    modal.exception.RemoteError,
    modal.exception.FunctionTimeoutError,
    modal.exception.InternalFailure,
    modal.exception.OutputExpiredError,
    modal.exception.DeserializationError,
)
"""How the platform says that a call has failed; its other errors are of the asking."""


@dataclass(frozen=True)
class _Outcome:
    value: Any = None
    error: Exception | None = None


async def _told(call: "modal.FunctionCall[Any]", seconds: float) -> _Outcome | None:
    """What a call has come to; None while it goes on. Whatever the Function itself raised is an outcome."""
    try:
        return _Outcome(await call.get.aio(timeout=seconds))
    except TimeoutError:
        return None
    except _ENDINGS as error:
        return _Outcome(error=trouble_of(error, "service", "a call has failed") or error)
    except (modal.exception.Error, GRPCError, StreamTerminatedError):
        raise
    except Exception as error:  # noqa: BLE001 - it is its caller's, who is told of it as it is
        return _Outcome(error=error)


class Deployment:
    """The Functions and servers of a deployed app, and of the app that this very command runs.

    Args:
        app: its name.
        limits: of the waits.
        client: the one to ask with, where it is not the environment's.

    """

    def __init__(self, app: str, limits: CallLimits = LIMITS, client: modal.Client | None = None) -> None:
        self._app = app
        self._limits = limits
        self._client = client

    def has(self, name: str) -> bool:
        """Whether a Function of that name is deployed."""
        try:
            self._asked(f"looking up {name}", self._function(name).hydrate.aio)
        except NotFound:
            return False
        return True

    def send(self, name: str) -> None:
        """Call a Function and wait for nothing. One call too many does no harm to those that are called here.

        Raises:
            NotFound: it is not deployed.

        """
        self.start(self._function(name), name)

    def start(self, function: "modal.Function[..., Any, T]", name: str, *words: Any) -> "modal.FunctionCall[Any]":
        """Call a Function; its call."""
        return self._asked(f"calling {name}", lambda: function.spawn.aio(*words))

    def ask(self, name: str, *words: Any) -> Any:
        """What a Function answers; raises what it raises. On behalf of somebody, who has no part in how we are refused.

        Raises:
            NetworkTrouble: the platform does not call it, for now or for good.

        """
        try:
            call = self.start(self._function(name), name, *words)
        except NetworkTrouble:
            raise
        except Trouble as trouble:
            raise ServerTrouble(str(trouble), hint=trouble.hint) from trouble
        return self._awaited(call, name)

    def answer(self, function: "modal.Function[..., Any, T]", name: str, *words: Any) -> Any:
        """What a Function answers; raises what it raises."""
        return self._awaited(self.start(function, name, *words), name)

    def _awaited(self, call: "modal.FunctionCall[Any]", name: str) -> Any:
        deadline = time.monotonic() + self._limits.answer.total_seconds()
        while time.monotonic() < deadline:
            if (outcome := self._outcome(call, name, _SLICE)) is not None:
                if outcome.error is not None:
                    raise outcome.error
                return outcome.value
        raise silence("service", f"waiting for what {name} answers", self._limits.answer.total_seconds())

    def failure(self, call: "modal.FunctionCall[Any]", name: str) -> Exception | None:
        """What ended a call; None when nothing did, as far as the platform can say now."""
        try:
            outcome = self._outcome(call, name, 0)
        except Trouble as trouble:
            logger.warning("{}", trouble)
            return None
        return None if outcome is None else outcome.error

    def _outcome(self, call: "modal.FunctionCall[Any]", name: str, seconds: float) -> "_Outcome | None":
        doing = f"asking for what {name} answers"
        limit = self._limits.request + timedelta(seconds=seconds)
        return _patiently(
            self._limits.moment, lambda: _within(limit, lambda: _told(call, seconds), of="service", doing=doing)
        )

    def url(self, server: str) -> str | None:
        """Where a server answers; None when it is not deployed."""
        found = modal.Server.from_name(self._app, server, client=self._client)
        try:
            return self._asked(f"looking up the address of {server}", found.get_url.aio)
        except NotFound:
            return None

    def keep(self, server: str, least: int) -> None:
        """Keep at least so many containers of a server up."""
        found = modal.Server.from_name(self._app, server, client=self._client)
        self._asked(f"keeping {least} of {server} up", lambda: found.autoscaler.update.aio(min_containers=least))

    def rates(self) -> Mapping[str, Decimal]:
        """Dollars per hour, by Modal's own names for what is rented."""
        billing = modal.Workspace.from_context(client=self._client).billing
        return self._asked("asking for the rates", billing.rates.aio)

    def _function(self, name: str) -> "modal.Function[..., Any, Any]":
        return modal.Function.from_name(self._app, name, client=self._client)

    def _asked(self, doing: str, call: Callable[[], Coroutine[Any, Any, T]]) -> T:
        return _patiently(
            self._limits.moment,
            lambda: _within(self._limits.request, call, of="service", doing=doing),
        )
