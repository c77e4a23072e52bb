"""`Platform`: the control plane as a test holds it. Plain blocking methods; one loop thread owns all the state."""

import asyncio
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self, TypeVar

from modal._serialization import deserialize
from modal.client import Client
from modal_proto import api_pb2

from jobs.core.clock import Clock, SystemClock
from tests.modal.platform.apps import GONE, App, Apps, Function
from tests.modal.platform.blocks import Blocks
from tests.modal.platform.build import Image, Images, Mounts, Secrets
from tests.modal.platform.calls import Calls
from tests.modal.platform.containers import Container, Containers, Settings
from tests.modal.platform.dicts import Dicts
from tests.modal.platform.named import Environments
from tests.modal.platform.proxy import Proxy
from tests.modal.platform.queues import Queues
from tests.modal.platform.volumes import Volume, Volumes
from tests.modal.platform.wire import ModalService
from tests.modal.platform.workspace import Workspace
from tests.support.waiting import PATIENCE, until

T = TypeVar("T")
TOKEN = ("ak-none", "as-none")
#: How long a test waits for a container to do what it should, before that counts as never.


class Platform:
    """A running control plane: `with Platform() as platform: ...`"""

    def __init__(self, *, clock: Clock | None = None, port: int = 0, settings: Settings | None = None) -> None:
        self._port = port
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="platform", daemon=True)
        self.home = Path(tempfile.mkdtemp(prefix="platform-"))
        self.settings = settings or Settings()
        self.url = ""
        clock = clock or SystemClock()
        self.wire = ModalService()
        self.environments, self.workspace = Environments(), Workspace()
        self.queues, self.dicts = Queues(self.environments, clock), Dicts(self.environments, clock)
        self.volumes = Volumes(self.environments, self.home)
        self.blocks = Blocks(self.volumes, self.home)
        self.secrets, self.mounts, self.images = Secrets(self.environments), Mounts(self.home), Images()
        self.apps = Apps(self.environments, lambda app: asyncio.ensure_future(self._containers.stop_app(app)))
        self._containers = Containers(
            self.home,
            self.wire,
            self.apps,
            images=self.images,
            mounts=self.mounts,
            secrets=self.secrets,
            volumes=self.volumes,
            settings=self.settings,
        )
        self.calls = Calls(self.apps, self._containers)
        self._proxies: list[asyncio.Server] = []
        self.wire.families = [
            *(
                self.environments,
                self.workspace,
                self.queues,
                self.dicts,
                self.volumes,
                self.blocks,
                self.secrets,
                self.mounts,
                self.images,
            ),
            *(self.apps, self._containers, self.calls),
        ]

    def __enter__(self) -> Self:
        self._thread.start()
        self._server, self.url = self._run(self.wire.listen(port=self._port))
        self._loop.call_soon_threadsafe(self._watch_clients)
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
        for app in self.apps.apps.values():
            app.state = api_pb2.APP_STATE_STOPPED
        await self._containers.close()
        for proxy in self._proxies:
            proxy.close()
        self.blocks.close()
        self._server.close()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        await self._server.wait_closed()

    def _watch_clients(self) -> None:
        """Stop ephemeral apps whose client has not been heard of for long."""
        for app in self.apps.apps.values():
            silent = time.monotonic() - app.last_heard
            if app.state == api_pb2.APP_STATE_EPHEMERAL and silent > self.settings.client_seconds:
                self.apps.stop(app)
        self._loop.call_later(0.5, self._watch_clients)

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def _call(self, function: Callable[..., T], *arguments: Any) -> T:
        async def call() -> T:
            return function(*arguments)

        return self._run(call())

    def _until(self, done: Awaitable[Any], what: str, patience: float) -> None:
        async def wait() -> None:
            await asyncio.wait_for(done, patience)

        try:
            self._run(wait())
        except TimeoutError:
            raise AssertionError(f"{what} did not happen within {patience:g} s") from None

    # For clients

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

    # What there is

    def create_secret(self, name: str, values: Mapping[str, str], environment: str = "main") -> None:
        self._call(self.secrets.create, name, values, environment)

    def volume(self, name: str, environment: str = "main") -> Volume:
        """A named volume as it is committed."""
        return self.volumes.named.find(self.volumes.named.ids[environment, name])

    def requests(self, rpc: str) -> list[Any]:
        """Every request of that name so far, oldest first. Queue and Dict traffic is only counted."""
        return list(self.wire.requests[rpc])

    def app(self, name: str, environment: str = "main") -> App:
        """The app deployed under that name."""
        return self.apps.app(self.apps.deployed[environment, name])

    def function(self, app: str, name: str, environment: str = "main") -> Function:
        """A deployed function or server; `.definition` is what the client asked for."""
        return self._call(self.apps.deployed_function, app, name, environment)

    def functions(self, app: str, environment: str = "main") -> dict[str, Function]:
        return {tag: self.apps.functions[one] for tag, one in self.app(app, environment).function_ids.items()}

    def image(self, function: Function) -> Image:
        return self.images.find(function.definition.image_id)

    def secret_names(self, function: Function) -> list[str]:
        """The named secrets of a function; those made of values in the code have no name."""
        return sorted(filter(None, map(self.secrets.named.name_of, function.definition.secret_ids)))

    def volume_name(self, volume_id: str) -> str:
        return self.volumes.named.name_of(volume_id)

    def running_apps(self) -> list[App]:
        return [app for app in self.apps.apps.values() if app.state not in GONE]

    # Functions

    def fire(self, app: str, name: str, environment: str = "main") -> str:
        """Run a scheduled function now, as its schedule would; the id of the call."""
        function = self.function(app, name, environment)
        if not function.definition.HasField("schedule"):
            raise AssertionError(f"{name!r} of app {app!r} has no schedule")
        return self._call(self.calls.invoke_plainly, function).id

    def result(self, call_id: str, patience: float = PATIENCE) -> Any:
        """What the call's only input returned; raises what it raised."""
        call = self.calls.call(call_id)

        async def answered() -> None:
            while call.unfinished:
                await call.changed.wait(patience)

        self._until(answered(), f"the end of {call.function.name!r}", patience)
        result = call.outputs[0].result
        if result.status != api_pb2.GenericResult.GENERIC_STATUS_SUCCESS:
            raise AssertionError(f"{call.function.name!r} failed: {result.exception}\n{result.traceback}")
        return deserialize(result.data, None)

    # Containers

    def containers(self, function: str | None = None, *, alive: bool = True) -> list[Container]:
        """Oldest first, of functions or servers of that name, in whichever app."""
        return [
            one
            for one in list(self._containers.all.values())
            if function in (None, one.function.name) and not (alive and one.state == "exited")
        ]

    def start_server(self, app: str, name: str, environment: str = "main") -> Container:
        """A container of a server, as its first request would start it."""
        return self._call(self._containers.start, self.function(app, name, environment))

    def open_server(self, app: str, name: str, *, port: int, token: tuple[str, str] = ("", "")) -> Proxy:
        """Give a deployed server an address at which requests reach its containers, and start one when there is none.

        Which address, its `get_url()` tells. Its containers are to listen on that port.
        """
        proxy = Proxy(self.apps, self._containers, app=app, name=name, port=port, token=token)
        self._proxies.append(self._run(proxy.listen()))
        return proxy

    def wait_for(self, function: str, state: str = "ready", patience: float = PATIENCE) -> Container:
        """The first live container of that function, once it is in that state."""

        def those() -> list[Container]:
            return [container for container in self.containers(function) if container.state == state]

        first: Container = until(those, f"a container of {function!r} that is {state}", patience=patience)[0]
        return first

    def wait_ready(self, container: Container, patience: float = PATIENCE) -> None:
        async def ready() -> None:
            while container.state == "starting":
                await container.changed.wait(patience)

        self._until(ready(), f"the start of {container.function.name!r}", patience)
        if container.state == "exited":
            raise AssertionError(f"{container.function.name!r} ended instead of starting:\n{container.output}")

    def wait_exit(self, container: Container, patience: float = PATIENCE) -> int | None:
        """The exit code, negative for a signal."""
        self._until(container.done.wait(), f"the end of {container.function.name!r}", patience)
        return container.exit_code

    def environ_of(self, container: Container) -> dict[str, str]:
        """The variables its entrypoint was started with."""
        return dict(container.environ)

    def processes(self, container: Container) -> list[int]:
        """The ids of all processes in the container, its entrypoint's among them."""
        return self._containers.pids(container)

    def kill(self, container: Container) -> None:
        """SIGKILL for everything in it; its input runs again elsewhere, what it had not committed is lost."""
        self._call(self._containers.kill, container)
        self.wait_exit(container)

    def preempt(self, container: Container) -> None:
        """Take the machine away from a function: SIGINT, a time of grace, SIGKILL. Its input runs again elsewhere."""
        self._call(self._containers.interrupt, container, signal.SIGINT)

    def drain(self, container: Container) -> None:
        """End a server as scaling down does: SIGTERM, a time of grace, SIGKILL."""
        self._call(self._containers.interrupt, container, signal.SIGTERM)
