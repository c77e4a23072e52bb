"""Apps and what is registered on them: created by `run` and `deploy`, published, looked up by name, logged, stopped."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

from google.protobuf.empty_pb2 import Empty
from grpclib import GRPCError, Status
from modal_proto import api_pb2

from tests.modal.platform.named import Environments, new_id
from tests.modal.platform.wire import Wakeup, not_found

#: What the smallest plan allows in one workspace.
MAX_SCHEDULES = 5
GONE = (api_pb2.APP_STATE_STOPPING, api_pb2.APP_STATE_STOPPED)


@dataclass
class Function:
    id: str
    app_id: str
    definition: api_pb2.Function = field(default_factory=api_pb2.Function)
    version: int = 0
    ranked: list[api_pb2.Function] = field(default_factory=list)
    """The same with each GPU of a list of them, the one that is wanted most first; containers here get that one."""

    @property
    def name(self) -> str:
        return self.definition.function_name

    @property
    def slots(self) -> int:
        """How many inputs one container works on at a time."""
        return max(1, self.definition.max_concurrent_inputs)


@dataclass
class App:
    id: str
    name: str
    environment: str
    state: int
    function_ids: dict[str, str] = field(default_factory=dict)
    class_ids: dict[str, str] = field(default_factory=dict)
    logs: list[api_pb2.TaskLogsBatch] = field(default_factory=list)
    changed: Wakeup = field(default_factory=Wakeup)
    last_heard: float = field(default_factory=time.monotonic)
    logs_complete: bool = False


class Apps:
    def __init__(self, environments: Environments, stop_containers: Callable[[App], asyncio.Future[None]]) -> None:
        self.environments = environments
        self.stop_containers = stop_containers
        self.apps: dict[str, App] = {}
        self.deployed: dict[tuple[str, str], str] = {}
        self.functions: dict[str, Function] = {}
        #: What `Server.get_url()` answers, by (app, server), when a test has something listening.
        self.server_urls: dict[tuple[str, str], str] = {}

    # Lookups

    def app(self, app_id: str) -> App:
        if app_id not in self.apps:
            raise not_found(f"App {app_id!r} not found")
        return self.apps[app_id]

    def function(self, function_id: str) -> Function:
        if function_id not in self.functions:
            raise not_found(f"Function {function_id!r} not found")
        return self.functions[function_id]

    def deployed_function(self, app_name: str, tag: str, environment: str = "main") -> Function:
        environment = self.environments.resolve(environment)
        if (environment, app_name) not in self.deployed:
            raise not_found(f"App {app_name!r} not found in environment {environment!r}")
        ids = self.app(self.deployed[environment, app_name]).function_ids
        if tag not in ids:
            raise not_found(f"App {app_name!r} has no Function {tag!r}")
        return self.function(ids[tag])

    def layout(self, app: App) -> api_pb2.AppLayout:
        functions = [self.functions[function_id] for function_id in app.function_ids.values()]
        objects = [
            api_pb2.Object(object_id=function.id, function_handle_metadata=self.handle(function))
            for function in functions
        ]
        objects += [
            api_pb2.Object(object_id=class_id, class_handle_metadata=api_pb2.ClassHandleMetadata())
            for class_id in app.class_ids.values()
        ]
        return api_pb2.AppLayout(objects=objects, function_ids=app.function_ids, class_ids=app.class_ids)

    def handle(self, function: Function) -> api_pb2.FunctionHandleMetadata:
        definition = function.definition
        metadata = api_pb2.FunctionHandleMetadata(
            function_name=definition.function_name,
            function_type=definition.function_type,
            is_method=definition.is_method,
            definition_id=f"de-{function.id}-{function.version}",
            function_schema=definition.function_schema,
            class_parameter_info=definition.class_parameter_info,
            supported_input_formats=definition.supported_input_formats,
            supported_output_formats=definition.supported_output_formats,
            max_object_size_bytes=2 << 20,
            # The platform offloads larger ones to blob storage, which is not needed here.
            max_async_object_size_bytes=2 << 20,
            app_id=function.app_id,
        )
        if definition.is_server:
            metadata._experimental_flash_urls.append(self.server_url(function))
        elif definition.webhook_config.type:
            app = self.app(function.app_id)
            metadata.web_url = f"https://tests--{app.name}-{function.name}.modal.run".lower()
        return metadata

    def server_url(self, function: Function) -> str:
        app = self.app(function.app_id)
        region = next(iter(function.definition.http_config.proxy_regions), "us-east")
        guess = f"https://tests--{app.name}-{function.name}.{region}.modal.direct".lower()
        return self.server_urls.get((app.name, function.name), guess)

    # Creating and publishing

    async def app_get_by_deployment_name(
        self, request: api_pb2.AppGetByDeploymentNameRequest
    ) -> api_pb2.AppGetByDeploymentNameResponse:
        environment = self.environments.resolve(request.environment_name)
        app_id = self.deployed.get((environment, request.name), "")
        lifecycle = api_pb2.AppLifecycle(app_state=self.app(app_id).state if app_id else 0)  # type: ignore[arg-type]
        return api_pb2.AppGetByDeploymentNameResponse(app_id=app_id, environment_name=environment, lifecycle=lifecycle)

    async def app_create(self, request: api_pb2.AppCreateRequest) -> api_pb2.AppCreateResponse:
        environment = self.environments.resolve(request.environment_name)
        app = App(new_id("ap"), request.description, environment, request.app_state)
        self.apps[app.id] = app
        return api_pb2.AppCreateResponse(app_id=app.id, app_page_url=f"https://modal.com/apps/{app.id}")

    async def app_get_layout(self, request: api_pb2.AppGetLayoutRequest) -> api_pb2.AppGetLayoutResponse:
        return api_pb2.AppGetLayoutResponse(app_layout=self.layout(self.app(request.app_id)))

    async def function_precreate(self, request: api_pb2.FunctionPrecreateRequest) -> api_pb2.FunctionPrecreateResponse:
        function = self.functions.get(request.existing_function_id)
        if function is None:
            sketch = api_pb2.Function(function_name=request.function_name, function_type=request.function_type)
            function = Function(new_id("fu"), request.app_id, sketch)
            self.functions[function.id] = function
        return api_pb2.FunctionPrecreateResponse(function_id=function.id, handle_metadata=self.handle(function))

    async def function_create(self, request: api_pb2.FunctionCreateRequest) -> api_pb2.FunctionCreateResponse:
        ranked = [each.function for each in sorted(request.function_data.ranked_functions, key=lambda each: each.rank)]
        definition = ranked[0] if ranked else request.function
        definition.mount_ids[:] = sorted(definition.mount_ids)  # the client sends a set
        function = self.functions.get(request.existing_function_id) or Function(new_id("fu"), request.app_id)
        self.functions[function.id] = function
        if function.definition != definition:
            function.definition, function.version = definition, function.version + 1
        function.ranked = ranked or [definition]
        return api_pb2.FunctionCreateResponse(
            function_id=function.id,
            function=definition,
            handle_metadata=self.handle(function),
            function_data=self.data(function),
        )

    def data(self, function: Function) -> api_pb2.FunctionData:
        definition = function.definition
        return api_pb2.FunctionData(
            module_name=definition.module_name,
            function_name=definition.function_name,
            is_server=definition.is_server,
            http_config=definition.http_config,
            autoscaler_settings=definition.autoscaler_settings,
            ranked_functions=[api_pb2.FunctionData.RankedFunction(rank=0, function=definition)],
        )

    async def class_create(self, request: api_pb2.ClassCreateRequest) -> api_pb2.ClassCreateResponse:
        return api_pb2.ClassCreateResponse(
            class_id=request.existing_class_id or new_id("cs"), handle_metadata=api_pb2.ClassHandleMetadata()
        )

    async def app_publish(self, request: api_pb2.AppPublishRequest) -> api_pb2.AppPublishResponse:
        app = self.app(request.app_id)
        if request.app_state == api_pb2.APP_STATE_DEPLOYED:
            self._check_schedules(app, list(request.function_ids.values()))
            app.name = request.name
            self.deployed[app.environment, app.name] = app.id
        app.state = request.app_state or app.state
        app.function_ids, app.class_ids = dict(request.function_ids), dict(request.class_ids)
        return api_pb2.AppPublishResponse(url=f"https://modal.com/apps/{app.id}", deployed_at=time.time())

    def _check_schedules(self, app: App, function_ids: list[str]) -> None:
        others = [self.apps[app_id] for app_id in self.deployed.values() if app_id != app.id]
        there = sum(self._schedules(list(other.function_ids.values())) for other in others)
        here = self._schedules(function_ids)
        if there + here > MAX_SCHEDULES:
            raise GRPCError(
                Status.FAILED_PRECONDITION,
                f"reached limit of {MAX_SCHEDULES} cron jobs (# already deployed => {there}, # in this app => {here})",
            )

    def _schedules(self, function_ids: list[str]) -> int:
        return sum(self.function(one).definition.HasField("schedule") for one in function_ids)

    # By name

    async def function_get(self, request: api_pb2.FunctionGetRequest) -> api_pb2.FunctionGetResponse:
        function = self.deployed_function(request.app_name, request.object_tag, request.environment_name)
        return api_pb2.FunctionGetResponse(
            function_id=function.id, handle_metadata=self.handle(function), function=self.data(function)
        )

    async def class_get(self, request: api_pb2.ClassGetRequest) -> api_pb2.ClassGetResponse:
        function = self.deployed_function(request.app_name, request.object_tag, request.environment_name)
        class_id = self.app(function.app_id).class_ids.get(request.object_tag, "")
        return api_pb2.ClassGetResponse(class_id=class_id, handle_metadata=api_pb2.ClassHandleMetadata())

    # Living and ending

    async def app_heartbeat(self, request: api_pb2.AppHeartbeatRequest) -> Empty:
        self.app(request.app_id).last_heard = time.monotonic()
        return Empty()

    async def app_client_disconnect(self, request: api_pb2.AppClientDisconnectRequest) -> Empty:
        app = self.app(request.app_id)
        if app.state not in (api_pb2.APP_STATE_DEPLOYED, api_pb2.APP_STATE_DETACHED):
            self.stop(app)
        elif app.state == api_pb2.APP_STATE_DETACHED:
            self.complete_logs(app)
        return Empty()

    async def app_stop(self, request: api_pb2.AppStopRequest) -> Empty:
        self.stop(self.app(request.app_id))
        return Empty()

    async def app_rollover(self, request: api_pb2.AppRolloverRequest) -> api_pb2.AppRolloverResponse:
        """Its containers are stopped; what is asked for next starts with the secrets of then."""
        app = self.app(request.app_id)
        self.stop_containers(app)
        return api_pb2.AppRolloverResponse(url=f"https://modal.com/apps/tests/main/deployed/{app.name}")

    def stop(self, app: App) -> None:
        if app.state in GONE:
            return
        app.state = api_pb2.APP_STATE_STOPPED
        self.deployed = {key: app_id for key, app_id in self.deployed.items() if app_id != app.id}
        self.stop_containers(app).add_done_callback(lambda _: self.complete_logs(app))

    def complete_logs(self, app: App) -> None:
        app.logs_complete = True
        app.changed.notify()

    # Logs

    def log(self, function: Function, task_id: str, descriptor: int, text: str) -> None:
        app = self.app(function.app_id)
        line = api_pb2.TaskLogs(data=text, timestamp=time.time(), file_descriptor=descriptor)  # type: ignore[arg-type]
        app.logs.append(
            api_pb2.TaskLogsBatch(
                task_id=task_id, function_id=function.id, entry_id=str(len(app.logs) + 1), items=[line]
            )
        )
        app.changed.notify()

    async def app_get_logs(self, request: api_pb2.AppGetLogsRequest) -> AsyncIterator[api_pb2.TaskLogsBatch]:
        """What was logged since the entry the caller saw last, then what comes, until the app and its logs are done."""
        app = self.app(request.app_id)
        seen = int(request.last_entry_id or 0)
        deadline = time.monotonic() + request.timeout
        while True:
            for batch in app.logs[seen:]:
                yield batch
            seen = max(seen, len(app.logs))
            if app.logs_complete:
                yield api_pb2.TaskLogsBatch(app_done=True)
                return
            if time.monotonic() >= deadline:
                return
            await app.changed.wait(deadline - time.monotonic())
