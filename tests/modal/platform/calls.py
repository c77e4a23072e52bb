"""Function calls: inputs wait in their function's pool, containers take them, outputs wait for whoever asks.

An input whose container dies goes back to the front of the pool and runs again, which costs none of its retries. A
function whose containers cannot even start gives its waiting inputs back as failures after a few attempts.
"""

import asyncio
import time
from collections import deque
from dataclasses import dataclass, field

from google.protobuf.empty_pb2 import Empty
from modal._serialization import serialize
from modal_proto import api_pb2

from tests.modal.platform.apps import GONE, Apps, Function
from tests.modal.platform.containers import Container, Containers
from tests.modal.platform.named import new_id
from tests.modal.platform.wire import Wakeup, not_found

#: An idle container looks up this often, and so learns of a deployment or of its own idleness.
LOOK_UP_SECONDS = 0.5
RETRIED = (api_pb2.GenericResult.GENERIC_STATUS_FAILURE, api_pb2.GenericResult.GENERIC_STATUS_TIMEOUT)
TERMINATED = api_pb2.GenericResult(status=api_pb2.GenericResult.GENERIC_STATUS_TERMINATED)
KILL_SWITCH = api_pb2.FunctionGetInputsResponse(inputs=[api_pb2.FunctionGetInputsItem(kill_switch=True)])


@dataclass(eq=False)
class Input:
    id: str
    call: "Call"
    index: int
    payload: api_pb2.FunctionInput
    retries: int = 0
    container: Container | None = None
    concluded: bool = False
    """It has its output; a container may still be busy with it, and is not listened to any more."""


@dataclass(eq=False)
class Call:
    id: str
    function: Function
    how: int
    inputs: dict[str, Input] = field(default_factory=dict)
    outputs: list[api_pb2.FunctionGetOutputsItem] = field(default_factory=list)
    changed: Wakeup = field(default_factory=Wakeup)

    @property
    def unfinished(self) -> int:
        return len(self.inputs) - len(self.outputs)


@dataclass(eq=False)
class Pool:
    function: Function
    waiting: deque[Input] = field(default_factory=deque)
    changed: Wakeup = field(default_factory=Wakeup)
    start_failures: int = 0
    override: api_pb2.AutoscalerSettings = field(default_factory=api_pb2.AutoscalerSettings)

    @property
    def max_containers(self) -> int:
        settings = self.function.definition.autoscaler_settings
        return self.override.max_containers or settings.max_containers or 1_000


class Calls:
    def __init__(self, apps: Apps, containers: Containers) -> None:
        self.apps, self.containers = apps, containers
        self.calls: dict[str, Call] = {}
        self.pools: dict[str, Pool] = {}
        containers.on_exit = self.container_gone

    def pool(self, function: Function) -> Pool:
        return self.pools.setdefault(function.id, Pool(function))

    def call(self, call_id: str) -> Call:
        if call_id not in self.calls:
            raise not_found(f"FunctionCall {call_id!r} not found")
        return self.calls[call_id]

    # Callers

    def invoke(self, function: Function, items: list[api_pb2.FunctionPutInputsItem], how: int) -> Call:
        call = Call(new_id("fc"), function, how)
        self.calls[call.id] = call
        self.add(call, items)
        return call

    def invoke_plainly(self, function: Function) -> Call:
        """Call it with no arguments, as a schedule does."""
        payload = api_pb2.FunctionInput(args=serialize(((), {})), data_format=api_pb2.DATA_FORMAT_PICKLE)
        item = api_pb2.FunctionPutInputsItem(input=payload)
        return self.invoke(function, [item], api_pb2.FUNCTION_CALL_INVOCATION_TYPE_ASYNC)

    def add(
        self, call: Call, items: list[api_pb2.FunctionPutInputsItem]
    ) -> list[api_pb2.FunctionPutInputsResponseItem]:
        added = [Input(new_id("in"), call, item.idx, item.input) for item in items]
        call.inputs |= {one.id: one for one in added}
        pool = self.pool(call.function)
        pool.waiting.extend(added)
        self.scale(pool)
        return [
            api_pb2.FunctionPutInputsResponseItem(idx=one.index, input_id=one.id, input_jwt=one.id) for one in added
        ]

    async def function_map(self, request: api_pb2.FunctionMapRequest) -> api_pb2.FunctionMapResponse:
        function = self.apps.function(request.function_id)
        if self.apps.app(function.app_id).state in GONE:
            raise not_found(f"App of Function {function.name!r} has stopped")
        call = self.invoke(function, list(request.pipelined_inputs), request.function_call_invocation_type)
        inputs = [
            api_pb2.FunctionPutInputsResponseItem(idx=one.index, input_id=one.id, input_jwt=one.id)
            for one in call.inputs.values()
        ]
        return api_pb2.FunctionMapResponse(
            function_call_id=call.id, function_call_jwt=call.id, pipelined_inputs=inputs, max_inputs_outstanding=1_000
        )

    async def function_put_inputs(self, request: api_pb2.FunctionPutInputsRequest) -> api_pb2.FunctionPutInputsResponse:
        added = self.add(self.call(request.function_call_id), list(request.inputs))
        return api_pb2.FunctionPutInputsResponse(inputs=added)

    async def function_get_outputs(
        self, request: api_pb2.FunctionGetOutputsRequest
    ) -> api_pb2.FunctionGetOutputsResponse:
        call = self.call(request.function_call_id)
        seen = int(request.last_entry_id.partition("-")[0] or 0)
        deadline = time.monotonic() + request.timeout
        while True:
            fresh = call.outputs[seen:]
            if request.HasField("start_idx") and request.HasField("end_idx"):
                fresh = [one for one in fresh if request.start_idx <= one.idx <= request.end_idx]
            if fresh or time.monotonic() >= deadline:
                break
            await call.changed.wait(deadline - time.monotonic())
        return api_pb2.FunctionGetOutputsResponse(
            outputs=fresh,
            idxs=[one.idx for one in fresh],
            last_entry_id=f"{len(call.outputs)}-0",
            num_unfinished_inputs=call.unfinished,
        )

    async def function_call_from_id(
        self, request: api_pb2.FunctionCallFromIdRequest
    ) -> api_pb2.FunctionCallFromIdResponse:
        call = self.call(request.function_call_id)
        return api_pb2.FunctionCallFromIdResponse(function_call_id=call.id, num_inputs=len(call.inputs))

    async def function_call_cancel(self, request: api_pb2.FunctionCallCancelRequest) -> Empty:
        call = self.call(request.function_call_id)
        for one in call.inputs.values():
            if one.concluded:
                continue
            self.conclude(one, TERMINATED)
            if one.container is None:
                self.pool(call.function).waiting.remove(one)
            elif request.terminate_containers:
                self.containers.kill(one.container)
            else:
                one.container.cancelled.append(one.id)
                one.container.changed.notify()
        return Empty()

    # Containers

    def scale(self, pool: Pool) -> None:
        """Start containers until every waiting input has a free place, or the limit is reached."""
        alive = self.containers.alive([pool.function.id])
        usable = [one for one in alive if one.state != "stopping" and one.version == pool.function.version]
        free = sum(max(0, pool.function.slots - len(one.inputs)) for one in usable)
        while free < len(pool.waiting) and len(alive) < pool.max_containers:
            alive.append(self.containers.start(pool.function))
            free += pool.function.slots
        pool.changed.notify()

    async def function_get_inputs(self, request: api_pb2.FunctionGetInputsRequest) -> api_pb2.FunctionGetInputsResponse:
        """The next input, or the order to end: when idle for long, outdated by a deployment, or told to stop."""
        container = self.containers.current()
        pool = self.pool(container.function)
        pool.start_failures = 0
        if container.state == "starting":
            container.turn("ready")
        deadline = time.monotonic() + self.containers.settings.idle_seconds
        while True:
            outdated = container.version != container.function.version
            idle = time.monotonic() >= deadline and not container.inputs
            if container.state == "stopping" or outdated or (idle and not pool.waiting):
                container.turn("stopping")
                return KILL_SWITCH
            if pool.waiting:
                return self.hand_out(pool.waiting.popleft(), container)
            patience = asyncio.ensure_future(pool.changed.wait(LOOK_UP_SECONDS))
            told = asyncio.ensure_future(container.changed.wait(3600))
            try:
                await asyncio.wait([patience, told], return_when=asyncio.FIRST_COMPLETED)
            finally:
                patience.cancel()
                told.cancel()

    def hand_out(self, one: Input, container: Container) -> api_pb2.FunctionGetInputsResponse:
        one.container = container
        container.inputs.add(one.id)
        limit = container.function.definition.timeout_secs or 300
        asyncio.get_running_loop().call_later(limit, self.time_out, one, one.retries, container, limit)
        item = api_pb2.FunctionGetInputsItem(
            input_id=one.id,
            input=one.payload,
            function_call_id=one.call.id,
            function_call_invocation_type=one.call.how,  # type: ignore[arg-type]
            retry_count=one.retries,
            function_map_idx=one.index,
        )
        return api_pb2.FunctionGetInputsResponse(inputs=[item])

    def time_out(self, one: Input, retries: int, container: Container, limit: int) -> None:
        if one.id in container.inputs and one.retries == retries:
            status = api_pb2.GenericResult.GENERIC_STATUS_TIMEOUT
            message = f"Task's current input {one.id} hit its timeout of {limit}s"
            self.answer(one, api_pb2.GenericResult(status=status, exception=message))
            self.containers.kill(container)

    async def function_put_outputs(self, request: api_pb2.FunctionPutOutputsRequest) -> Empty:
        container = self.containers.current()
        for output in request.outputs:
            one = next(call.inputs[output.input_id] for call in self.calls.values() if output.input_id in call.inputs)
            if one.container is container:
                self.answer(one, output.result, output.data_format)
        self.scale(self.pool(container.function))
        return Empty()

    def answer(self, one: Input, result: api_pb2.GenericResult, data_format: int = 0) -> None:
        """Record the input's output, or let it run again when it failed and has retries left."""
        container, one.container = one.container, None
        if container is not None:
            container.inputs.discard(one.id)
        if one.concluded:
            return
        policy = one.call.function.definition.retry_policy
        if result.status in RETRIED and one.retries < policy.retries:
            one.retries += 1
            asyncio.get_running_loop().call_later(policy.initial_delay_ms / 1000, self.requeue, one)
            return
        self.conclude(one, result, data_format, container.id if container else "")

    def conclude(self, one: Input, result: api_pb2.GenericResult, data_format: int = 0, task_id: str = "") -> None:
        one.concluded = True
        one.call.outputs.append(
            api_pb2.FunctionGetOutputsItem(
                result=result,
                idx=one.index,
                input_id=one.id,
                data_format=data_format,  # type: ignore[arg-type]
                task_id=task_id,
                output_created_at=time.time(),
                retry_count=one.retries,
            )
        )
        one.call.changed.notify()

    def requeue(self, one: Input) -> None:
        pool = self.pool(one.call.function)
        pool.waiting.appendleft(one)
        self.scale(pool)

    def container_gone(self, container: Container) -> None:
        pool = self.pool(container.function)
        lost = [call.inputs[one] for one in container.inputs for call in self.calls.values() if one in call.inputs]
        container.inputs.clear()
        for one in lost:
            one.container = None
            if not one.concluded:
                pool.waiting.appendleft(one)
        if self.apps.app(container.function.app_id).state in GONE:
            pool.waiting.clear()
            return
        if container.failure is not None or not container.was_ready:
            pool.start_failures += 1
        if pool.start_failures >= self.containers.settings.start_attempts:
            self.give_up(pool, container)
        self.scale(pool)

    def give_up(self, pool: Pool, container: Container) -> None:
        failure = container.failure or api_pb2.GenericResult(
            status=api_pb2.GenericResult.GENERIC_STATUS_INIT_FAILURE,
            exception=f"container exited with code {container.exit_code} before it took any input",
        )
        pool.start_failures = 0
        while pool.waiting:
            self.answer(pool.waiting.popleft(), failure)

    # Numbers and knobs

    async def function_get_current_stats(
        self, request: api_pb2.FunctionGetCurrentStatsRequest
    ) -> api_pb2.FunctionStats:
        pool = self.pool(self.apps.function(request.function_id))
        alive = self.containers.alive([request.function_id])
        running = sum(len(one.inputs) for one in alive)
        return api_pb2.FunctionStats(backlog=len(pool.waiting), num_total_tasks=len(alive), num_running_inputs=running)

    async def function_update_scheduling_params(
        self, request: api_pb2.FunctionUpdateSchedulingParamsRequest
    ) -> api_pb2.FunctionUpdateSchedulingParamsResponse:
        """Kept, and `max_containers` obeyed; nothing is kept warm here, a test starts servers itself."""
        pool = self.pool(self.apps.function(request.function_id))
        pool.override.MergeFrom(request.settings)
        return api_pb2.FunctionUpdateSchedulingParamsResponse(current_settings=self._settings(pool))

    async def function_get_scheduling_params(
        self, request: api_pb2.FunctionGetSchedulingParamsRequest
    ) -> api_pb2.FunctionGetSchedulingParamsResponse:
        pool = self.pool(self.apps.function(request.function_id))
        configuration = api_pb2.AutoscalerConfiguration(settings=self._settings(pool), override_settings=pool.override)
        return api_pb2.FunctionGetSchedulingParamsResponse(autoscaler_configuration=configuration)

    def _settings(self, pool: Pool) -> api_pb2.AutoscalerSettings:
        settings = api_pb2.AutoscalerSettings()
        settings.CopyFrom(pool.function.definition.autoscaler_settings)
        settings.MergeFrom(pool.override)
        return settings
