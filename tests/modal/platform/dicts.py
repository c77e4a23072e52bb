"""`modal.Dict` as the platform keeps it: opaque keys and values, one atomic conditional write, idle entries fade."""

import random
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import datetime, timedelta

from google.protobuf.empty_pb2 import Empty
from grpclib import GRPCError, Status
from modal_proto import api_pb2

from jobs.core.clock import Clock
from tests.modal.platform.named import Environments, Named

#: An entry is forgotten this long after it was last read or written.
IDLE = timedelta(days=7)
MAX_UPDATES = 10_000
MAX_VALUE_BYTES = 100 << 20


@dataclass
class Entry:
    value: bytes
    touched: datetime


class Dict:
    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.entries: dict[bytes, Entry] = {}

    def alive(self) -> dict[bytes, Entry]:
        now = self.clock.now()
        self.entries = {key: entry for key, entry in self.entries.items() if now - entry.touched < IDLE}
        return self.entries

    def find(self, key: bytes) -> Entry | None:
        entry = self.entries.get(key)
        now = self.clock.now()
        if entry is None or now - entry.touched >= IDLE:
            return None
        entry.touched = now
        return entry

    def put(self, key: bytes, value: bytes, *, only_new: bool) -> bool:
        if only_new and self.find(key) is not None:
            return False
        self.entries[key] = Entry(value, self.clock.now())
        return True


class Dicts:
    def __init__(self, environments: Environments, clock: Clock) -> None:
        self.clock = clock
        self.named: Named[Dict] = Named("Dict", "di", environments)

    async def dict_get_or_create(self, request: api_pb2.DictGetOrCreateRequest) -> api_pb2.DictGetOrCreateResponse:
        dict_id = self.named.get_or_create(request, lambda _: Dict(self.clock))
        metadata = api_pb2.DictMetadata(name=request.deployment_name)
        return api_pb2.DictGetOrCreateResponse(dict_id=dict_id, metadata=metadata)

    async def dict_get_by_id(self, request: api_pb2.DictGetByIdRequest) -> api_pb2.DictGetByIdResponse:
        self.named.find(request.dict_id)
        metadata = api_pb2.DictMetadata(name=self.named.name_of(request.dict_id))
        return api_pb2.DictGetByIdResponse(dict_id=request.dict_id, metadata=metadata)

    async def dict_delete(self, request: api_pb2.DictDeleteRequest) -> Empty:
        self.named.delete(request.dict_id)
        return Empty()

    async def dict_heartbeat(self, request: api_pb2.DictHeartbeatRequest) -> Empty:
        self.named.find(request.dict_id)
        return Empty()

    async def dict_update(self, request: api_pb2.DictUpdateRequest) -> api_pb2.DictUpdateResponse:
        """All of the updates in one step; `created` is false when each of them found its key taken."""
        if len(request.updates) > MAX_UPDATES or any(len(one.value) > MAX_VALUE_BYTES for one in request.updates):
            raise GRPCError(Status.INVALID_ARGUMENT, "Received :status = '413'")
        target = self.named.find(request.dict_id)
        written = [target.put(one.key, one.value, only_new=request.if_not_exists) for one in request.updates]
        return api_pb2.DictUpdateResponse(created=any(written))

    async def dict_get(self, request: api_pb2.DictGetRequest) -> api_pb2.DictGetResponse:
        entry = self.named.find(request.dict_id).find(request.key)
        return api_pb2.DictGetResponse(found=entry is not None, value=entry.value if entry else None)

    async def dict_pop(self, request: api_pb2.DictPopRequest) -> api_pb2.DictPopResponse:
        target = self.named.find(request.dict_id)
        entry = target.find(request.key)
        target.entries.pop(request.key, None)
        return api_pb2.DictPopResponse(found=entry is not None, value=entry.value if entry else None)

    async def dict_contains(self, request: api_pb2.DictContainsRequest) -> api_pb2.DictContainsResponse:
        entry = self.named.find(request.dict_id).find(request.key)
        return api_pb2.DictContainsResponse(found=entry is not None)

    async def dict_len(self, request: api_pb2.DictLenRequest) -> api_pb2.DictLenResponse:
        return api_pb2.DictLenResponse(len=min(100_000, len(self.named.find(request.dict_id).alive())))

    async def dict_clear(self, request: api_pb2.DictClearRequest) -> Empty:
        self.named.find(request.dict_id).entries.clear()
        return Empty()

    async def dict_contents(self, request: api_pb2.DictContentsRequest) -> AsyncIterator[api_pb2.DictEntry]:
        """Every entry, in an order nobody may rely on. A scan does not keep entries alive."""
        entries = list(self.named.find(request.dict_id).alive().items())
        random.shuffle(entries)
        for key, entry in entries:
            yield api_pb2.DictEntry(key=key if request.keys else b"", value=entry.value if request.values else b"")
