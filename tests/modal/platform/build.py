"""What a function is made of: secrets, images and source mounts. What was asked for is kept.

Of an image only the Python is built, by `tests.modal.platform.packages`, when a container of it starts.
"""

import hashlib
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from google.protobuf.empty_pb2 import Empty
from grpclib import GRPCError, Status
from modal_proto import api_pb2

from tests.modal.platform.named import NAMELESS, Environments, Named
from tests.modal.platform.wire import not_found

BUILT = api_pb2.GenericResult(status=api_pb2.GenericResult.GENERIC_STATUS_SUCCESS)


class Secrets:
    def __init__(self, environments: Environments) -> None:
        self.named: Named[dict[str, str]] = Named("Secret", "st", environments)

    def create(self, name: str, values: Mapping[str, str], environment: str = "main") -> None:
        self.named.ids[environment, name] = self.named.add(dict(values))

    def environ(self, ids: Iterable[str]) -> dict[str, str]:
        """All of them merged; a later secret wins."""
        return {key: value for secret_id in ids for key, value in self.named.find(secret_id).items()}

    async def secret_get_or_create(
        self, request: api_pb2.SecretGetOrCreateRequest
    ) -> api_pb2.SecretGetOrCreateResponse:
        secret_id = self._nameless(request) or self.named.get_or_create(request, lambda _: dict(request.env_dict))
        missing = sorted(set(request.required_keys) - set(self.named.find(secret_id)))
        if missing:
            raise GRPCError(
                Status.FAILED_PRECONDITION,
                f"Secret {request.deployment_name!r} is missing key(s): {', '.join(missing)}",
            )
        metadata = api_pb2.SecretMetadata(name=request.deployment_name)
        return api_pb2.SecretGetOrCreateResponse(secret_id=secret_id, metadata=metadata)

    def _nameless(self, request: api_pb2.SecretGetOrCreateRequest) -> str:
        """Values in the code make a secret named by its content: deploying them again changes no function."""
        if request.object_creation_type not in NAMELESS:
            return ""
        content = repr(sorted(request.env_dict.items()))
        secret_id = f"st-{hashlib.sha256(content.encode()).hexdigest()[:16]}"
        self.named.by_id[secret_id] = dict(request.env_dict)
        return secret_id

    async def secret_delete(self, request: api_pb2.SecretDeleteRequest) -> Empty:
        self.named.delete(request.secret_id)
        return Empty()


class Mounts:
    """Source files by content; a mount is a list of names for them."""

    def __init__(self, home: Path) -> None:
        self.blobs = home / "blobs"
        self.mounts: dict[str, list[api_pb2.MountFile]] = {}
        #: Of those that the platform publishes: its own client, a Python for images that have none.
        self.names: dict[str, str] = {}

    def lay_out(self, mount_ids: Iterable[str], root: Path) -> None:
        """Put the files of these mounts where a container expects them, below `root`."""
        for file in (file for mount_id in mount_ids for file in self.mounts[mount_id]):
            target = root / PurePosixPath(file.filename).relative_to("/")
            target.parent.mkdir(parents=True, exist_ok=True)
            target.unlink(missing_ok=True)
            target.write_bytes((self.blobs / file.sha256_hex).read_bytes())

    def sources(self, mount_ids: Iterable[str]) -> tuple[tuple[str, str], ...]:
        """The name of each Python file of these mounts, below the root, and where its bytes are."""
        files = [file for mount_id in mount_ids for file in self.mounts[mount_id] if file.filename.endswith(".py")]
        return tuple((file.filename.lstrip("/"), str(self.blobs / file.sha256_hex)) for file in files)

    def files(self, mount_ids: Iterable[str]) -> list[str]:
        return sorted(file.filename for mount_id in mount_ids for file in self.mounts[mount_id])

    async def mount_get_or_create(self, request: api_pb2.MountGetOrCreateRequest) -> api_pb2.MountGetOrCreateResponse:
        # The published mounts are Modal's own and empty here: `tests.modal.platform.packages` stands in for them.
        contents = sorted(f"{file.filename} {file.sha256_hex} {file.mode}" for file in request.files)
        checksum = hashlib.sha256("\n".join([request.deployment_name, *contents]).encode()).hexdigest()
        # Named by its content, so that deploying the same files again changes no function.
        mount_id = f"mo-{checksum[:16]}"
        self.mounts[mount_id] = list(request.files)
        self.names[mount_id] = request.deployment_name
        metadata = api_pb2.MountHandleMetadata(content_checksum_sha256_hex=checksum)
        return api_pb2.MountGetOrCreateResponse(mount_id=mount_id, handle_metadata=metadata)

    async def mount_batched_check_existence(
        self, request: api_pb2.MountBatchedCheckExistenceRequest
    ) -> api_pb2.MountBatchedCheckExistenceResponse:
        missing = [name for name in request.sha256_hex_hashes if not (self.blobs / name).exists()]
        return api_pb2.MountBatchedCheckExistenceResponse(missing_sha256_hex_hashes=missing)

    async def mount_put_file(self, request: api_pb2.MountPutFileRequest) -> api_pb2.MountPutFileResponse:
        if request.WhichOneof("data_oneof") == "data":
            self.blobs.mkdir(exist_ok=True)
            (self.blobs / request.sha256_hex).write_bytes(request.data)
        return api_pb2.MountPutFileResponse(exists=(self.blobs / request.sha256_hex).exists())


@dataclass(frozen=True)
class Image:
    layers: tuple[api_pb2.Image, ...]
    """As they were asked for, from the first base image on."""
    builder: str

    @property
    def commands(self) -> tuple[str, ...]:
        """Every Dockerfile command, from the first base image on."""
        return tuple(line for layer in self.layers for line in layer.dockerfile_commands)

    def environ(self) -> dict[str, str]:
        words = [word for line in self.commands if line.startswith("ENV ") for word in shlex.split(line[4:])]
        return dict(word.split("=", 1) for word in words if "=" in word)


class Images:
    def __init__(self) -> None:
        self.images: dict[str, Image] = {}

    def find(self, image_id: str) -> Image:
        if image_id not in self.images:
            raise not_found(f"Image {image_id!r} not found")
        return self.images[image_id]

    async def image_get_or_create(self, request: api_pb2.ImageGetOrCreateRequest) -> api_pb2.ImageGetOrCreateResponse:
        bases = [layer for base in request.image.base_images for layer in self.find(base.image_id).layers]
        image_id = "im-" + hashlib.sha256(request.image.SerializeToString(deterministic=True)).hexdigest()[:16]
        self.images[image_id] = Image((*bases, request.image), request.builder_version)
        metadata = api_pb2.ImageMetadata(
            image_builder_version=request.builder_version, python_version_info="Python 3.12.0", workdir="/root"
        )
        return api_pb2.ImageGetOrCreateResponse(image_id=image_id, result=BUILT, metadata=metadata)
