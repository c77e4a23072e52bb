"""`modal.Queue` as the platform keeps it: in memory, FIFO within a partition, `get` removes, whole partitions fade."""

import asyncio
from collections import deque
from datetime import datetime, timedelta

from google.protobuf.empty_pb2 import Empty
from grpclib import GRPCError, Status
from modal_proto import api_pb2

from jobs.core.clock import Clock
from tests.modal.platform.named import Environments, Named
from tests.modal.platform.wire import Wakeup

MAX_ITEMS = 5_000
MAX_PARTITIONS = 100_000
MAX_ITEM_BYTES = 1 << 20
MAX_PARTITION_BYTES = 64 << 20


class Partition:
    def __init__(self) -> None:
        self.items: deque[tuple[int, bytes]] = deque()
        self.entries = 0
        self.expires: datetime | None = None

    @property
    def size(self) -> int:
        return sum(len(value) for _, value in self.items)


class Queue:
    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.partitions: dict[bytes, Partition] = {}
        self.changed = Wakeup()

    def partition(self, key: bytes) -> Partition:
        """The partition with what is still alive in it."""
        partition = self.partitions.setdefault(key, Partition())
        if partition.expires is not None and partition.expires <= self.clock.now():
            partition.items.clear()
        return partition

    def put(self, key: bytes, values: list[bytes], ttl: timedelta) -> None:
        partition = self.partition(key)
        if any(len(value) > MAX_ITEM_BYTES for value in values):
            # What the client recognises as a request that the platform found too large.
            raise GRPCError(Status.INVALID_ARGUMENT, "Received :status = '413'")
        crowded = len(partition.items) + len(values) > MAX_ITEMS or len(self.partitions) > MAX_PARTITIONS
        if crowded or partition.size + sum(map(len, values)) > MAX_PARTITION_BYTES:
            raise GRPCError(Status.RESOURCE_EXHAUSTED, "Queue partition is full")
        for value in values:
            partition.entries += 1
            partition.items.append((partition.entries, value))
        partition.expires = self.clock.now() + ttl
        self.changed.notify()

    def take(self, key: bytes, count: int) -> list[bytes]:
        items = self.partition(key).items
        return [items.popleft()[1] for _ in range(min(count, len(items)))]


class Queues:
    def __init__(self, environments: Environments, clock: Clock) -> None:
        self.clock = clock
        self.named: Named[Queue] = Named("Queue", "qu", environments)

    async def queue_get_or_create(self, request: api_pb2.QueueGetOrCreateRequest) -> api_pb2.QueueGetOrCreateResponse:
        queue_id = self.named.get_or_create(request, lambda _: Queue(self.clock))
        metadata = api_pb2.QueueMetadata(name=request.deployment_name)
        return api_pb2.QueueGetOrCreateResponse(queue_id=queue_id, metadata=metadata)

    async def queue_get_by_id(self, request: api_pb2.QueueGetByIdRequest) -> api_pb2.QueueGetByIdResponse:
        self.named.find(request.queue_id)
        metadata = api_pb2.QueueMetadata(name=self.named.name_of(request.queue_id))
        return api_pb2.QueueGetByIdResponse(queue_id=request.queue_id, metadata=metadata)

    async def queue_delete(self, request: api_pb2.QueueDeleteRequest) -> Empty:
        self.named.delete(request.queue_id)
        return Empty()

    async def queue_heartbeat(self, request: api_pb2.QueueHeartbeatRequest) -> Empty:
        self.named.find(request.queue_id)
        return Empty()

    async def queue_put(self, request: api_pb2.QueuePutRequest) -> Empty:
        ttl = timedelta(seconds=request.partition_ttl_seconds or 24 * 3600)
        self.named.find(request.queue_id).put(request.partition_key, list(request.values), ttl)
        return Empty()

    async def queue_get(self, request: api_pb2.QueueGetRequest) -> api_pb2.QueueGetResponse:
        """Values at once when there are any, else when some arrive, else none when the caller's patience ends.

        The wait is cancelled when the caller goes away, before anything was taken: a killed waiter loses nothing.
        """
        queue = self.named.find(request.queue_id)
        loop = asyncio.get_running_loop()
        deadline = loop.time() + request.timeout
        values = queue.take(request.partition_key, request.n_values)
        while not values and (left := deadline - loop.time()) > 0:
            await queue.changed.wait(left)
            values = queue.take(request.partition_key, request.n_values)
        return api_pb2.QueueGetResponse(values=values)

    async def queue_next_items(self, request: api_pb2.QueueNextItemsRequest) -> api_pb2.QueueNextItemsResponse:
        queue = self.named.find(request.queue_id)
        seen = int(request.last_entry_id or 0)
        if not any(entry > seen for entry, _ in queue.partition(request.partition_key).items):
            await queue.changed.wait(request.item_poll_timeout)
        return api_pb2.QueueNextItemsResponse(
            items=[
                api_pb2.QueueItem(value=value, entry_id=str(entry))
                for entry, value in queue.partition(request.partition_key).items
                if entry > seen
            ]
        )

    async def queue_len(self, request: api_pb2.QueueLenRequest) -> api_pb2.QueueLenResponse:
        queue = self.named.find(request.queue_id)
        keys = list(queue.partitions) if request.total else [request.partition_key]
        return api_pb2.QueueLenResponse(len=sum(len(queue.partition(key).items) for key in keys))

    async def queue_clear(self, request: api_pb2.QueueClearRequest) -> Empty:
        queue = self.named.find(request.queue_id)
        for key in list(queue.partitions) if request.all_partitions else [request.partition_key]:
            queue.partitions.pop(key, None)
        return Empty()
