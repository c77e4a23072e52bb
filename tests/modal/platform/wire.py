"""gRPC on one side, plain methods on the other: `QueueGet` is answered by whichever family has a `queue_get`.

Requests are kept for assertions, and a test can have a reply lost, a call refused, or one never answered. Each
container gets a listener of its own, as each has its own worker on the platform; that is how a call that names no
container is known to be its call.
"""

import asyncio
import contextlib
import contextvars
import re
import socket
import traceback
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any, Literal

from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from grpclib import GRPCError, Status
from grpclib.const import Cardinality, Handler
from grpclib.events import RecvRequest, listen
from grpclib.server import Server, Stream
from h2.exceptions import StreamClosedError
from modal._utils.grpc_utils import custom_detail_codec
from modal_proto import api_pb2

Meddler = Callable[[str, str], GRPCError | Literal["never"] | None]
"""What becomes of a call of that name, by that container (or a client, which is ""); None is the usual answer."""

SERVICE = api_pb2.DESCRIPTOR.services_by_name["ModalClient"]
#: The id of the container that makes the current call; empty for a client.
caller: contextvars.ContextVar[str] = contextvars.ContextVar("caller", default="")
#: Called too often, and with too much in them, to be kept; they are still counted.
NOT_KEPT = re.compile("Queue|Dict|Heartbeat|GetInputs|GetOutputs|MountPutFile")


def not_found(message: str) -> GRPCError:
    return GRPCError(Status.NOT_FOUND, message)


def snake(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()


class Wakeup:
    """Wakes everyone who waits at this moment."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def notify(self) -> None:
        self._event.set()
        self._event = asyncio.Event()

    def wait(self, seconds: float) -> Coroutine[Any, Any, None]:
        """Returns at the next `notify`, counted from this call and not from when it is first awaited."""
        return self._wait(self._event, seconds)

    async def _wait(self, event: asyncio.Event, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(event.wait(), seconds)


class ModalService:
    """Serves the families' methods as the `ModalClient` service."""

    def __init__(self) -> None:
        self.families: Sequence[object] = ()
        self.counts: Counter[str] = Counter()
        self.requests: dict[str, list[Any]] = defaultdict(list)
        self.failures: list[str] = []
        self.meddler: Meddler = lambda *_: None
        self._lose: Counter[str] = Counter()
        self._refuse: dict[str, list[GRPCError]] = defaultdict(list)

    def lose_replies(self, rpc: str, times: int = 1) -> None:
        """The next calls of `rpc` take effect, but the caller never hears of it and tries again."""
        self._lose[rpc] += times

    def refuse(self, rpc: str, status: Status, message: str, times: int = 1) -> None:
        """The next calls of `rpc` have no effect and are answered with `status`."""
        self._refuse[rpc] += [GRPCError(status, message)] * times

    async def listen(self, task_id: str = "", port: int = 0, path: Path | None = None) -> tuple[Server, str]:
        """Open a listener on loopback, or at a path; the calls that come in through it belong to `task_id`."""
        server = Server([self], status_details_codec=custom_detail_codec)

        async def recognise(_: RecvRequest) -> None:
            caller.set(task_id)

        listen(server, RecvRequest, recognise)
        if path is not None:
            await server.start(path=str(path))
            return server, f"unix://{path}"
        listener = socket.create_server(("127.0.0.1", port))
        # Its connections inherit that; else each answer waits forty milliseconds for an acknowledgement.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        await server.start(sock=listener)
        return server, f"http://127.0.0.1:{listener.getsockname()[1]}"

    def __mapping__(self) -> dict[str, Handler]:
        return {f"/{SERVICE.full_name}/{rpc.name}": self._handler(rpc) for rpc in SERVICE.methods}

    def _handler(self, rpc: Any) -> Handler:
        cardinality = Cardinality.UNARY_STREAM if rpc.server_streaming else Cardinality.UNARY_UNARY
        answer = self._answer_stream if rpc.server_streaming else self._answer_unary

        async def serve(stream: Stream[Message, Message]) -> None:
            await self._guard(rpc.name, answer, stream)

        return Handler(serve, cardinality, GetMessageClass(rpc.input_type), GetMessageClass(rpc.output_type))

    async def _guard(self, name: str, answer: Callable[..., Awaitable[None]], stream: Stream[Message, Message]) -> None:
        request = await stream.recv_message()
        self.counts[name] += 1
        if not NOT_KEPT.search(name):
            self.requests[name].append(request)
        if self._refuse[name]:
            raise self._refuse[name].pop()
        meddled = self.meddler(name, caller.get())
        if meddled == "never":
            await asyncio.Event().wait()  # until the caller takes the call back
        elif meddled is not None:
            raise meddled
        try:
            await answer(self.method(name), request, stream, name)
        except (GRPCError, asyncio.CancelledError, ConnectionError, StreamClosedError):
            raise  # the last: whoever asked has gone, and grpclib has not heard of it yet
        except Exception:
            # A mistake in the control plane itself: told to the test that owns it, at the latest when it stops.
            self.failures.append(f"{name}: {traceback.format_exc()}")
            raise

    def method(self, name: str) -> Callable[[Any], Any]:
        """What answers that call now."""
        for family in self.families:
            method = getattr(family, snake(name), None)
            if method is not None:
                return method  # type: ignore[no-any-return]
        raise GRPCError(Status.UNIMPLEMENTED, f"this control plane does not know {name}")

    async def _answer_unary(
        self, method: Callable[[Any], Awaitable[Message]], request: Any, stream: Stream[Message, Message], name: str
    ) -> None:
        reply = await method(request)
        if self._lose[name]:
            self._lose[name] -= 1
            raise GRPCError(Status.UNAVAILABLE, f"the reply to {name} was lost")
        await stream.send_message(reply)

    async def _answer_stream(
        self, method: Callable[[Any], AsyncIterator[Message]], request: Any, stream: Stream[Message, Message], _: str
    ) -> None:
        async for reply in method(request):
            await stream.send_message(reply)
