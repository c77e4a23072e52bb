"""`Platform`: the control plane as a test holds it. Plain blocking methods; one loop thread owns all the state."""

import asyncio
import shutil
import tempfile
import threading
from collections.abc import Awaitable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self, TypeVar

from modal.client import Client
from modal_proto import api_pb2

from jobs.clock import Clock, SystemClock
from tests.platform.dicts import Dicts
from tests.platform.named import Environments
from tests.platform.queues import Queues
from tests.platform.wire import Wire

T = TypeVar("T")
TOKEN = ("ak-none", "as-none")


class Platform:
    """A running control plane: `with Platform() as platform: ...`"""

    def __init__(self, *, clock: Clock | None = None, port: int = 0) -> None:
        self._port = port
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="platform", daemon=True)
        self.home = Path(tempfile.mkdtemp(prefix="platform-"))
        clock = clock or SystemClock()
        self.environments = Environments()
        self.queues = Queues(self.environments, clock)
        self.dicts = Dicts(self.environments, clock)
        self.wire = Wire([self.environments, self.queues, self.dicts])
        self.url = ""

    def __enter__(self) -> Self:
        self._thread.start()
        self._server, self.url = self._run(self.wire.listen(port=self._port))
        (self.home / "modal.toml").touch()
        return self

    def __exit__(self, *_: object) -> None:
        self._run(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        shutil.rmtree(self.home, ignore_errors=True)
        if self.wire.failures:
            raise AssertionError("the control plane itself failed:\n" + "\n".join(self.wire.failures))

    async def _close(self) -> None:
        self._server.close()
        await self._server.wait_closed()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    def _run(self, work: Awaitable[T]) -> T:
        async def wait() -> T:
            return await work

        return asyncio.run_coroutine_threadsafe(wait(), self._loop).result()

    def environ(self) -> dict[str, str]:
        """What a client process needs in its environment to talk to this control plane and to nothing else."""
        return {
            "MODAL_SERVER_URL": self.url,
            "MODAL_TOKEN_ID": TOKEN[0],
            "MODAL_TOKEN_SECRET": TOKEN[1],
            "MODAL_CONFIG_PATH": str(self.home / "modal.toml"),
            "MODAL_ENVIRONMENT": "main",
            "MODAL_DISABLE_API_PROXY": "1",
        }

    @contextmanager
    def client(self) -> Iterator[Client]:
        """A real client, for `client=`: the one Modal makes by itself would outlive this control plane."""
        with Client(self.url, api_pb2.CLIENT_TYPE_CLIENT, TOKEN) as client:
            yield client

    def requests(self, rpc: str) -> list[Any]:
        """Every request of that name so far, oldest first."""
        return list(self.wire.requests[rpc])
