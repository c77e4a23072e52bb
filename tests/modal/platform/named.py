"""Objects that live in an environment under a name: queues, dicts, volumes and secrets are found and made alike."""

import itertools
import os
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from google.protobuf.empty_pb2 import Empty
from grpclib import GRPCError, Status
from modal_proto import api_pb2

from tests.modal.platform.wire import not_found

T = TypeVar("T")
MUST_BE_NEW = api_pb2.OBJECT_CREATION_TYPE_CREATE_FAIL_IF_EXISTS
NAMELESS = (api_pb2.OBJECT_CREATION_TYPE_EPHEMERAL, api_pb2.OBJECT_CREATION_TYPE_ANONYMOUS_OWNED_BY_APP)
_numbers = itertools.count(1)


def new_id(prefix: str) -> str:
    """An id that no other process uses either: what runs in a container is found by the container's id."""
    return f"{prefix}-{os.getpid():x}x{next(_numbers):06d}"


class Environments:
    """The workspace's environments; every name is looked up in one of them."""

    def __init__(self) -> None:
        self.names = ["main", "test"]

    def resolve(self, name: str) -> str:
        name = name or "main"
        if name not in self.names:
            raise not_found(f"Environment {name!r} not found")
        return name

    async def environment_get_or_create(
        self, request: api_pb2.EnvironmentGetOrCreateRequest
    ) -> api_pb2.EnvironmentGetOrCreateResponse:
        name = self.resolve(request.deployment_name)
        settings = api_pb2.EnvironmentSettings(image_builder_version="2025.06", webhook_suffix="")
        metadata = api_pb2.EnvironmentMetadata(name=name, settings=settings)
        return api_pb2.EnvironmentGetOrCreateResponse(environment_id=f"en-{name}", metadata=metadata)

    async def environment_create(self, request: api_pb2.EnvironmentCreateRequest) -> Empty:
        if request.name in self.names:
            raise GRPCError(Status.ALREADY_EXISTS, f"Environment {request.name!r} already exists")
        self.names.append(request.name)
        return Empty()


class Named(Generic[T]):
    def __init__(self, kind: str, prefix: str, environments: Environments) -> None:
        self.kind, self.prefix, self.environments = kind, prefix, environments
        self.by_id: dict[str, T] = {}
        self.ids: dict[tuple[str, str], str] = {}

    def get_or_create(self, request: Any, make: Callable[[str], T]) -> str:
        """The id of what the request names; `make(name)` builds it when the request wants it made."""
        how = request.object_creation_type
        if how in NAMELESS:
            return self.add(make(""))
        environment = self.environments.resolve(request.environment_name)
        key = (environment, request.deployment_name)
        if key in self.ids:
            if how == MUST_BE_NEW:
                raise GRPCError(Status.ALREADY_EXISTS, f"{self.kind} {key[1]!r} already exists")
        elif how == api_pb2.OBJECT_CREATION_TYPE_UNSPECIFIED:
            raise not_found(f"{self.kind} {key[1]!r} not found in environment {environment!r}")
        else:
            self.ids[key] = self.add(make(key[1]))
        return self.ids[key]

    def add(self, value: T) -> str:
        object_id = new_id(self.prefix)
        self.by_id[object_id] = value
        return object_id

    def find(self, object_id: str) -> T:
        try:
            return self.by_id[object_id]
        except KeyError:
            raise not_found(f"{self.kind} {object_id!r} not found") from None

    def name_of(self, object_id: str) -> str:
        return next((name for (_, name), found in self.ids.items() if found == object_id), "")

    def delete(self, object_id: str) -> None:
        self.find(object_id)
        del self.by_id[object_id]
        self.ids = {key: found for key, found in self.ids.items() if found != object_id}
