"""The Functions and servers of a deployed app: looked up, called, waited for, each call with a limit."""

import time
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal
from typing import Any, TypeVar

import modal
from grpclib import GRPCError
from grpclib.exceptions import StreamTerminatedError
from loguru import logger

from app.platform.calls import run
from app.platform.errors import no_answer, trouble_of
from app.platform.limits import LIMITS, CallLimits
from jobs.core.errors import NetworkTrouble, NotFound, ServerTrouble, Trouble

T = TypeVar("T")

DEPLOY_AGAIN = "what is deployed is of another version; deploy it again: `modal deploy -m app.deploy`"

_POLL_SECONDS = 20.0
"""For so long a Function is asked for its answer at a time."""

_CALL_FAILURES = (
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


async def _outcome_of(call: "modal.FunctionCall[Any]", seconds: float) -> _Outcome | None:
    """What a call has come to; None while it goes on. Whatever the Function itself raised is an outcome."""
    try:
        return _Outcome(await call.get.aio(timeout=seconds))
    except TimeoutError:
        return None
    except _CALL_FAILURES as error:
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
            self._run(f"looking up {name}", self._function(name).hydrate.aio)
        except NotFound:
            return False
        return True

    def send(self, name: str) -> None:
        """Call a Function and wait for nothing. One call too many does no harm to those that are called here.

        Raises:
            NotFound: it is not deployed.

        """
        self.start(self._function(name), name)

    def start(self, function: "modal.Function[..., Any, T]", name: str, *arguments: Any) -> "modal.FunctionCall[Any]":
        """Call a Function; its call."""
        return self._run(f"calling {name}", lambda: function.spawn.aio(*arguments))

    def ask(self, name: str, *arguments: Any) -> Any:
        """What a Function answers; raises what it raises. On behalf of somebody, who has no part in how we are refused.

        Raises:
            NetworkTrouble: the platform does not call it, for now or for good.

        """
        try:
            call = self.start(self._function(name), name, *arguments)
        except NetworkTrouble:
            raise
        except Trouble as trouble:
            hint = DEPLOY_AGAIN if isinstance(trouble, NotFound) else trouble.hint
            raise ServerTrouble(str(trouble), hint=hint) from trouble
        return self._awaited(call, name)

    def answer(self, function: "modal.Function[..., Any, T]", name: str, *arguments: Any) -> Any:
        """What a Function answers; raises what it raises."""
        return self._awaited(self.start(function, name, *arguments), name)

    def _awaited(self, call: "modal.FunctionCall[Any]", name: str) -> Any:
        deadline = time.monotonic() + self._limits.answer.total_seconds()
        while time.monotonic() < deadline:
            if (outcome := self._outcome(call, name, _POLL_SECONDS)) is not None:
                if outcome.error is not None:
                    raise outcome.error
                return outcome.value
        raise no_answer("service", f"waiting for what {name} answers", self._limits.answer.total_seconds())

    def failure(self, call: "modal.FunctionCall[Any]", name: str) -> Exception | None:
        """What ended a call; None when nothing did, as far as the platform can say now."""
        try:
            outcome = self._outcome(call, name, 0)
        except Trouble as trouble:
            logger.warning("{}", trouble)
            return None
        return None if outcome is None else outcome.error

    def _outcome(self, call: "modal.FunctionCall[Any]", name: str, seconds: float) -> _Outcome | None:
        return self._run(f"asking for what {name} answers", lambda: _outcome_of(call, seconds), waits=seconds)

    def url(self, server: str) -> str | None:
        """Where a server answers; None when it is not deployed."""
        try:
            return self._run(f"looking up the address of {server}", self._server(server).get_url.aio)
        except NotFound:
            return None

    def keep(self, server: str, least: int) -> None:
        """Keep at least so many containers of a server up."""
        scaling = self._server(server).autoscaler
        self._run(f"keeping {least} of {server} up", lambda: scaling.update.aio(min_containers=least))

    def rates(self) -> Mapping[str, Decimal]:
        """Dollars per hour, by Modal's own names for what is rented."""
        billing = modal.Workspace.from_context(client=self._client).billing
        return self._run("asking for the rates", billing.rates.aio)

    def _function(self, name: str) -> "modal.Function[..., Any, Any]":
        return modal.Function.from_name(self._app, name, client=self._client)

    def _server(self, name: str) -> modal.Server:
        return modal.Server.from_name(self._app, name, client=self._client)

    def _run(self, doing: str, call: Callable[[], Coroutine[Any, Any, T]], *, waits: float = 0) -> T:
        """`waits`: the seconds for which the call itself is meant to wait."""
        within = self._limits.request + timedelta(seconds=waits)
        return run(call, of="service", doing=doing, within=within, retry=self._limits.retry)
