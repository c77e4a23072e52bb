"""An event loop that has everything it calls go through a wrapper: steps of tasks, timers, and what sockets bring.

For looking at the loop, never for serving by itself: it costs a microsecond or more for each call.
"""

import asyncio
from collections.abc import Callable
from typing import Any

import uvloop

Callback = Callable[..., Any]
Wrap = Callable[[Callback], Callback]

_BY_TRANSPORT = (
    "connection_made",
    "data_received",
    "eof_received",
    "pause_writing",
    "resume_writing",
    "connection_lost",
)


class WrappingLoop(uvloop.Loop):
    """uvloop, but for the wrapper. A callback may be wrapped more than once, as where one kind of timer makes another.

    Args:
        wrap: what makes of a callback the one that is called in its place, with the same arguments. Any thread calls
            it, as any thread may hand a callback to a loop; what it makes is called by the loop alone.

    """

    def __init__(self, wrap: Wrap) -> None:
        super().__init__()
        self._wrap = wrap

    def call_soon(  # type: ignore[override] # as uvloop has it
        self, callback: Callback, *args: Any, context: Any = None
    ) -> asyncio.Handle:
        return super().call_soon(self._wrap(callback), *args, context=context)

    def call_soon_threadsafe(  # type: ignore[override] # as uvloop has it
        self, callback: Callback, *args: Any, context: Any = None
    ) -> asyncio.Handle:
        return super().call_soon_threadsafe(self._wrap(callback), *args, context=context)

    def call_later(  # type: ignore[override] # as uvloop has it
        self, delay: float, callback: Callback, *args: Any, context: Any = None
    ) -> asyncio.TimerHandle:
        return super().call_later(delay, self._wrap(callback), *args, context=context)

    def call_at(  # type: ignore[override] # as uvloop has it
        self, when: float, callback: Callback, *args: Any, context: Any = None
    ) -> asyncio.TimerHandle:
        return super().call_at(when, self._wrap(callback), *args, context=context)

    def wrapped(self, callback: Callback) -> Callback:
        """What a protocol has called in place of this, where it changes what its transport calls."""
        return self._wrap(callback)

    async def create_server(self, protocol_factory: Callable[[], Any], *args: Any, **kwargs: Any) -> Any:
        return await super().create_server(self._wrapping(protocol_factory), *args, **kwargs)

    async def create_connection(self, protocol_factory: Callable[[], Any], *args: Any, **kwargs: Any) -> Any:
        return await super().create_connection(self._wrapping(protocol_factory), *args, **kwargs)

    def _wrapping(self, protocol_factory: Callable[[], Any]) -> Callable[[], Any]:
        """Protocols are called by their transports, past `call_soon`."""

        def make() -> Any:
            protocol = protocol_factory()
            for name in _BY_TRANSPORT:
                setattr(protocol, name, self._wrap(getattr(protocol, name)))
            return protocol

        return make
