"""Containers are real processes of Modal's own entrypoint: they start, fetch, commit, are stopped, and die like there.

A container runs in an environment of what its image declares. It sees the files its mounts brought and the variables
its image and secrets set, nothing of the repository nor of the tests' own environment; what it leaves running dies with
it. A test can kill one (SIGKILL for all of it) or preempt it (SIGINT, then SIGKILL).
"""

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from google.protobuf.empty_pb2 import Empty
from grpclib import GRPCError, Status
from modal_proto import api_pb2

from tests.modal.platform.apps import App, Apps, Function
from tests.modal.platform.build import Images, Mounts, Secrets
from tests.modal.platform.compiled import lay_out
from tests.modal.platform.forked import READ, Running, can_fork, forked
from tests.modal.platform.inside import ENTRYPOINT
from tests.modal.platform.isolation import Bind, isolated, unshare
from tests.modal.platform.named import new_id
from tests.modal.platform.packages import Environment, built, declared
from tests.modal.platform.volumes import View, Volumes
from tests.modal.platform.wire import ModalService, Wakeup, caller, not_found
from tests.support.waiting import PATIENCE

#: Longer than any line a program may print in one piece.
LINE_LIMIT = 1 << 20
PATH = ("/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin")
#: A heartbeat is answered at the latest then; the client sends one every fifteen seconds and waits as long.
HEARTBEAT_SECONDS = 14.0


@dataclass
class Settings:
    """What a test may turn; read whenever a container starts or is about to stop."""

    path_prefix: Path | None = None
    """A directory in front of every container's PATH, for programs that images would hold (`ollama`)."""
    words_before: tuple[str, ...] = ()
    """What the command line of every container begins with; it has to come to the rest by `exec`."""
    environ: dict[str, str] = field(default_factory=dict)
    """Variables every container gets on top of its image's and secrets'."""
    idle_seconds: float = 60.0
    """How long a container without work stays; stands in for every `scaledown_window`."""
    start_attempts: int = 3
    """So many containers in a row may fail to start before the waiting inputs are given back as failed."""
    commit_seconds: float = 5.0
    """The pause between background commits."""
    grace_seconds: float = PATIENCE
    """From SIGINT or SIGTERM to SIGKILL."""
    namespaces: bool = field(default_factory=lambda: bool(unshare()))
    """Whether volumes are mounted where they belong; never set it where the kernel refuses."""
    fresh: bool = False
    """Whether each container is a Python that reads all by itself, not a fork of one that has read the client."""
    warm: bool = True
    """Whether what it imports is compiled before and read as far as its image brings it; not where a start is
    measured."""
    mount_variables: dict[str, str] = field(default_factory=dict)
    """Without namespaces, variables by which a container learns where it finds what belongs at a mount path."""
    client_seconds: float = PATIENCE
    """An ephemeral app is stopped when its client was silent for so long."""


@dataclass(eq=False)
class Container:
    id: str
    function: Function
    version: int
    home: Path
    enqueued_at: float = field(default_factory=time.time)
    state: str = "starting"
    """starting, then ready (it asked for work or reported that it serves), stopping, exited."""
    was_ready: bool = False
    is_snapped: bool = False
    """It asked for a snapshot of its memory, and waits to be restored from it."""
    environment: Environment | None = None
    """The Python it runs on, from when it is about to."""
    views: dict[str, View] = field(default_factory=dict)
    lines: list[str] = field(default_factory=list)
    environ: dict[str, str] = field(default_factory=dict)
    """What its entrypoint was started with."""
    process: Running | None = None
    namespace: int | None = None
    """Of its mounts, held open: the kernel soon calls the next one by the number of one that nobody holds."""
    exit_code: int | None = None
    failure: api_pb2.GenericResult | None = None
    inputs: set[str] = field(default_factory=set)
    cancelled: list[str] = field(default_factory=list)
    changed: Wakeup = field(default_factory=Wakeup)
    done: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def output(self) -> str:
        return "".join(self.lines)

    @property
    def pid(self) -> int:
        if self.process is None:
            raise AssertionError(f"container {self.id!r} of {self.function.name!r} has not started yet")
        return self.process.pid

    def turn(self, state: str) -> None:
        if self.state != "exited":
            self.state = state
            self.was_ready = self.was_ready or state == "ready"
            self.changed.notify()


class Containers:
    def __init__(
        self,
        home: Path,
        wire: ModalService,
        apps: Apps,
        *,
        images: Images,
        mounts: Mounts,
        secrets: Secrets,
        volumes: Volumes,
        settings: Settings,
    ) -> None:
        self.home, self.wire, self.apps = home, wire, apps
        self.images, self.mounts, self.secrets, self.volumes = images, mounts, secrets, volumes
        self.settings = settings
        self.all: dict[str, Container] = {}
        self.on_exit: Callable[[Container], None] = lambda _: None
        self._lives: set[asyncio.Task[None]] = set()

    # Starting

    def start(self, function: Function) -> Container:
        """A new container of that function; it is counted from now on, though it takes a second to come up."""
        task_id = new_id("ta")
        container = Container(task_id, function, function.version, self.home / task_id)
        self.all[task_id] = container
        life = asyncio.create_task(self._live(container))
        self._lives.add(life)
        life.add_done_callback(self._lives.discard)
        return container

    async def _live(self, container: Container) -> None:
        # As short as can be: a socket's whole path may have 107 bytes, and a checkout may lie deep.
        path = self.home / container.id[-6:] if has_own_network(container.function) else None
        server, url = await self.wire.listen(container.id, path=path)
        try:
            container.environment = await asyncio.to_thread(self._environment, container)
            binds = await asyncio.to_thread(self._furnish, container, container.environment)
            await self._run(container, url, container.environment, binds)
        except Exception as broken:
            container.lines.append(f"{type(broken).__name__}: {broken}\n")
            self.wire.failures.append(f"container {container.id} of {container.function.name}: {broken!r}")
        finally:
            server.close()
            self.kill(container)
            if container.namespace is not None:
                os.close(container.namespace)
                container.namespace = None
            container.turn("exited")
            container.done.set()
            self.on_exit(container)
            for view in container.views.values():
                await asyncio.to_thread(view.close)

    def _environment(self, container: Container) -> Environment:
        image = self.images.find(container.function.definition.image_id)
        return built(declared(image.layers, image.builder, self.mounts.names.__getitem__))

    def _furnish(self, container: Container, environment: Environment) -> list[Bind]:
        """Lay out the source and make a view of every volume; what has to appear where is returned."""
        definition = container.function.definition
        (container.home / "fs/root").mkdir(parents=True)
        (container.home / "home").mkdir()
        self.mounts.lay_out(definition.mount_ids, container.home / "fs")
        if self.settings.warm:
            lay_out(self.mounts.sources(definition.mount_ids), environment.interpreter, container.home / "fs")
        binds = []
        for mount in definition.volume_mounts:
            path = container.home / "views" / mount.volume_id
            path.mkdir(parents=True)
            view = View(self.volumes.named.find(mount.volume_id), path, mount.read_only)
            view.refresh()
            container.views[mount.volume_id] = view
            (path / mount.sub_path).mkdir(parents=True, exist_ok=True)
            binds.append(Bind(path / mount.sub_path, Path(mount.mount_path), read_only=mount.read_only))
        return binds

    async def _run(self, container: Container, url: str, environment: Environment, binds: list[Bind]) -> None:
        arguments = container.home / "arguments.pb"
        arguments.write_bytes(self._arguments(container).SerializeToString())
        container.environ = {**self._environ(container, url, environment, arguments), **self._mount_variables(binds)}
        container.process = await self._started(container, environment, binds)
        container.changed.notify()
        pumps = [
            asyncio.create_task(self._pump(container, container.process.stdout, api_pb2.FILE_DESCRIPTOR_STDOUT)),
            asyncio.create_task(self._pump(container, container.process.stderr, api_pb2.FILE_DESCRIPTOR_STDERR)),
        ]
        commits = asyncio.create_task(self._commit_in_background(container))
        try:
            container.exit_code = await container.process.wait()
        finally:
            commits.cancel()
            self.kill(container)
            await asyncio.wait(pumps, timeout=PATIENCE)

    async def _started(self, container: Container, environment: Environment, binds: list[Bind]) -> Running:
        cwd = container.home / "fs/root"
        is_plain = self.settings.namespaces and not has_own_network(container.function)
        finds_client = str(environment.client) in container.environ["PYTHONPATH"].split(":")
        is_fresh = self.settings.fresh or self.settings.words_before or not finds_client
        if is_plain and not is_fresh and can_fork():
            root = container.home / "fs/all"
            root.mkdir()
            names = READ if self.settings.warm else ()
            return await forked(
                environment, container.environ, binds, names=names, root=root, cwd=cwd, limit=LINE_LIMIT
            )
        inside = [str(environment.python), "-m", ENTRYPOINT]
        return await asyncio.create_subprocess_exec(
            *self.settings.words_before,
            *self._isolated(container, inside, binds),
            cwd=cwd,
            env=container.environ,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,
            limit=LINE_LIMIT,
        )

    def _isolated(self, container: Container, inside: list[str], binds: list[Bind]) -> list[str]:
        if not self.settings.namespaces:
            return inside
        own_network = has_own_network(container.function)
        return isolated(inside, binds, container.home / "fs/all", own_network=own_network)

    def _environ(self, container: Container, url: str, environment: Environment, arguments: Path) -> dict[str, str]:
        definition = container.function.definition
        first = [str(self.settings.path_prefix)] if self.settings.path_prefix else []
        return {
            "PATH": ":".join([*first, str(environment.binaries), *PATH]),
            "HOME": str(container.home / "home"),
            "LANG": "C.UTF-8",
            "PYTHONPATH": f"{container.home / 'fs/root'}:{environment.client}",
            "PYTHONTZPATH": "",  # not every image has timezones of its own
            **self.images.find(definition.image_id).environ(),
            **self.secrets.environ(definition.secret_ids),
            **self.settings.environ,
            "MODAL_IS_REMOTE": "1",
            "MODAL_TASK_ID": container.id,
            "MODAL_IMAGE_ID": definition.image_id,
            "MODAL_ENVIRONMENT": self.apps.app(container.function.app_id).environment,
            "MODAL_CLOUD_PROVIDER": "CLOUD_PROVIDER_LOCAL",
            "MODAL_REGION": "local",
            "MODAL_SERVER_URL": url,
            "MODAL_DISABLE_API_PROXY": "1",
            "MODAL_CONTAINER_ARGUMENTS_PATH": str(arguments),
        }

    def _mount_variables(self, binds: list[Bind]) -> dict[str, str]:
        if self.settings.namespaces:
            return {}
        sources = {str(bind.target): str(bind.source) for bind in binds}
        return {key: sources[path] for key, path in self.settings.mount_variables.items() if path in sources}

    def _arguments(self, container: Container) -> api_pb2.ContainerArguments:
        function = container.function
        app = self.apps.app(function.app_id)
        layout = self.apps.layout(app)
        known = {one.object_id for one in layout.objects}
        for object_id in [one.object_id for one in function.definition.object_dependencies]:
            if object_id not in known:
                metadata = self.volumes.metadata(object_id) if object_id in container.views else None
                layout.objects.append(api_pb2.Object(object_id=object_id, volume_metadata=metadata))
        definition = api_pb2.Function()
        definition.CopyFrom(function.definition)
        definition.is_checkpointing_function = definition.checkpointing_enabled  # by what the platform knows of itself
        return api_pb2.ContainerArguments(
            task_id=container.id,
            function_id=function.id,
            app_id=app.id,
            function_def=definition,
            app_layout=layout,
            environment_name=app.environment,
            checkpoint_id="ch-1" if function.definition.checkpointing_enabled else "",
        )

    async def _pump(self, container: Container, stream: asyncio.StreamReader | None, descriptor: int) -> None:
        while stream is not None and (line := await stream.readline()):
            text = line.decode(errors="replace")
            container.lines.append(text)
            self.apps.log(container.function, container.id, descriptor, text)

    async def _commit_in_background(self, container: Container) -> None:
        while container.views:
            await asyncio.sleep(self.settings.commit_seconds)
            for view in container.views.values():
                await asyncio.to_thread(view.commit)

    # Ending

    def pids(self, container: Container) -> list[int]:
        """Everything that runs in the container, however it was started there."""
        mark = f"MODAL_TASK_ID={container.id}".encode()
        own = None if container.namespace is None else identity(os.fstat(container.namespace))
        found = []
        for entry in Path("/proc").iterdir():
            with contextlib.suppress(OSError, ValueError):
                pid = int(entry.name)
                inside = own is not None and identity((entry / "ns/mnt").stat()) == own
                if inside or mark in (entry / "environ").read_bytes().split(b"\0"):
                    found.append(pid)
        return found

    def kill(self, container: Container) -> None:
        """SIGKILL for all of it, at once and without a word: nothing is committed, no input is answered."""
        pids = self.pids(container)
        if container.process is not None and container.process.returncode is None:
            pids.append(container.process.pid)
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def interrupt(self, container: Container, number: signal.Signals) -> None:
        """Ask the entrypoint to end: SIGINT preempts a function, SIGTERM drains a server. SIGKILL follows the grace."""
        if container.process is None or container.process.returncode is not None:
            return
        container.turn("stopping")
        container.process.send_signal(number)
        kill = asyncio.get_running_loop().call_later(self.settings.grace_seconds, self.kill, container)
        life = asyncio.create_task(container.done.wait())
        life.add_done_callback(lambda _: kill.cancel())

    def retire(self, container: Container) -> None:
        """Let it end when it has nothing left to do: servers drain, idle functions leave, busy ones are preempted."""
        if container.function.definition.is_server:
            self.interrupt(container, signal.SIGTERM)
        elif container.inputs:
            self.interrupt(container, signal.SIGINT)
        else:
            container.turn("stopping")

    async def stop_app(self, app: App) -> None:
        of_app = [one for one in self.alive() if one.function.app_id == app.id]
        for container in of_app:
            self.retire(container)
        for container in of_app:
            try:
                await asyncio.wait_for(container.done.wait(), self.settings.grace_seconds)
            except TimeoutError:
                self.kill(container)

    async def close(self) -> None:
        for container in self.alive():
            self.kill(container)
        lives = list(self._lives)
        for life in lives:
            if not life.done():
                await asyncio.wait([life], timeout=PATIENCE)

    def alive(self, functions: Iterable[str] | None = None) -> list[Container]:
        return [
            one
            for one in self.all.values()
            if one.state != "exited" and (functions is None or one.function.id in functions)
        ]

    # What containers say

    def current(self) -> Container:
        """The container that makes the call being answered."""
        container = self.all.get(caller.get())
        if container is None:
            raise GRPCError(Status.FAILED_PRECONDITION, "this can only be called from within a container")
        if container.namespace is None and container.process is not None and self.settings.namespaces:
            container.namespace = self._namespace(container)
        return container

    def _namespace(self, container: Container) -> int:
        try:
            if container.state != "exited":  # else the number may be another's
                return os.open(f"/proc/{container.pid}/ns/mnt", os.O_RDONLY)
        except FileNotFoundError:
            pass  # killed, before its first call was read
        raise GRPCError(Status.ABORTED, f"container {container.id!r} of {container.function.name!r} has ended")

    async def container_hello(self, _: Empty) -> Empty:
        """The first thing that it says, maybe before we know that it runs."""
        container = self.all.get(caller.get())
        while container is not None and container.process is None:
            await container.changed.wait(PATIENCE)
        self.current()
        return Empty()

    async def container_heartbeat(self, _: api_pb2.ContainerHeartbeatRequest) -> api_pb2.ContainerHeartbeatResponse:
        container = self.current()
        deadline = asyncio.get_running_loop().time() + HEARTBEAT_SECONDS
        while not container.cancelled and (left := deadline - asyncio.get_running_loop().time()) > 0:
            await container.changed.wait(left)
        if not container.cancelled:
            return api_pb2.ContainerHeartbeatResponse()
        event = api_pb2.CancelInputEvent(input_ids=container.cancelled)
        container.cancelled = []
        return api_pb2.ContainerHeartbeatResponse(cancel_input_event=event)

    async def container_checkpoint(self, _: api_pb2.ContainerCheckpointRequest) -> Empty:
        """Nothing is taken down here: the process waits for its restore, as one that was restored would."""
        self.current().is_snapped = True
        return Empty()

    async def container_server_lifecycle_ready(self, _: api_pb2.ContainerServerLifecycleReadyRequest) -> Empty:
        self.current().turn("ready")
        return Empty()

    async def container_stop(self, request: api_pb2.ContainerStopRequest) -> api_pb2.ContainerStopResponse:
        container = self.all.get(request.task_id)
        if container is None:
            raise not_found(f"Container {request.task_id!r} not found")
        if request.graceful and not container.function.definition.is_server:
            container.turn("stopping")
        else:
            self.retire(container)
        return api_pb2.ContainerStopResponse()

    async def task_result(self, request: api_pb2.TaskResultRequest) -> Empty:
        self.current().failure = request.result
        return Empty()

    async def task_list(self, request: api_pb2.TaskListRequest) -> api_pb2.TaskListResponse:
        tasks = [
            api_pb2.TaskStats(task_id=one.id, app_id=one.function.app_id, enqueued_at=one.enqueued_at)
            for one in self.alive()
            if request.app_id in ("", one.function.app_id)
        ]
        return api_pb2.TaskListResponse(tasks=tasks)

    async def flash_container_list(
        self, request: api_pb2.FlashContainerListRequest
    ) -> api_pb2.FlashContainerListResponse:
        port = self.apps.function(request.function_id).definition.http_config.port
        ready = [one for one in self.alive([request.function_id]) if one.state == "ready"]
        return api_pb2.FlashContainerListResponse(
            containers=[
                api_pb2.FlashContainerListResponse.Container(task_id=one.id, host="127.0.0.1", port=port)
                for one in ready
            ]
        )

    # Their volumes

    def _view(self, volume_id: str) -> tuple[Container, View]:
        container = self.current()
        if volume_id not in container.views:
            raise not_found(f"Volume {volume_id!r} is not mounted in this container")
        return container, container.views[volume_id]

    async def volume_commit(self, request: api_pb2.VolumeCommitRequest) -> api_pb2.VolumeCommitResponse:
        _, view = self._view(request.volume_id)
        await asyncio.to_thread(view.commit)
        return api_pb2.VolumeCommitResponse(skip_reload=True)

    async def volume_reload(self, request: api_pb2.VolumeReloadRequest) -> Empty:
        container, view = self._view(request.volume_id)
        if await asyncio.to_thread(self._is_open, container, view):
            raise GRPCError(Status.FAILED_PRECONDITION, "there are open files preventing the operation")
        await asyncio.to_thread(view.commit)
        await asyncio.to_thread(view.refresh)
        return Empty()

    def _is_open(self, container: Container, view: View) -> bool:
        """Whether any process of the container has a file of the view open or mapped, or stands in it."""
        inside = view.identities()
        return any(not inside.isdisjoint(held(pid)) for pid in self.pids(container))


def has_own_network(function: Function) -> bool:
    """Whether its container gets one here: Modal's client waits for a web server on an interface that it calls eth0."""
    web_server = api_pb2.WEBHOOK_TYPE_WEB_SERVER
    return any(one.webhook_config.type == web_server for one in function.definition.method_definitions.values())


def identity(seen: os.stat_result) -> tuple[int, int]:
    return seen.st_dev, seen.st_ino


def held(pid: int) -> set[tuple[int, int]]:
    """Device and inode of all that a process holds on to: open files, its working directory, its mapped files."""
    process = Path(f"/proc/{pid}")
    found = set()
    with contextlib.suppress(OSError):
        for link in [*(process / "fd").iterdir(), process / "cwd"]:
            with contextlib.suppress(OSError):
                found.add(identity(link.stat()))
        for line in (process / "maps").read_text().splitlines():
            device, inode = line.split()[3:5]
            major, minor = (int(part, 16) for part in device.split(":"))
            found.add((os.makedev(major, minor), int(inode)))
    return found
