"""What Modal's exceptions mean in `jobs.core.errors`, for each class of them: one table.

The same failure means one thing of the store (Dict and Queue, where the ledger is kept) and another of a Function, a
server or the Volume. Whether trying again helps follows from the class that it becomes. `modal.Dict`, `modal.Queue` and
the rest raise these, gRPC's own, those of sockets, and RuntimeError; nobody above `app.platform` meets any.
"""

import concurrent.futures
from collections.abc import Iterator
from typing import Literal

from grpclib import GRPCError, Status
from grpclib.exceptions import ProtocolError, StreamTerminatedError
from modal import exception as modal_exception

from jobs.core.errors import (
    BadRequest,
    Bug,
    Corrupt,
    DiskFull,
    Forbidden,
    NotFound,
    Refused,
    ServerTrouble,
    StoreUnavailable,
    StoreUnusable,
    TooManyRequests,
    Trouble,
    Unauthorized,
    Unreachable,
    Unsupported,
    os_trouble,
)

PlatformPart = Literal["store", "service"]


class NotReloaded(ServerTrouble, RuntimeError):
    """The volume is as it was: a file there is open, or the platform failed for now."""


class FilesOpen(NotReloaded):
    """The platform says so at once, as it does while a file there is open. A moment later it may be closed."""


# Each: what it means of the store, and of everything else.
MEANINGS: dict[type[BaseException], tuple[type[Trouble], type[Trouble]]] = {
    # Away for now.
    modal_exception.ServiceError: (StoreUnavailable, ServerTrouble),  # UNAVAILABLE, DEADLINE_EXCEEDED, and what broke
    modal_exception.InternalError: (StoreUnavailable, ServerTrouble),
    modal_exception.InternalFailure: (StoreUnavailable, ServerTrouble),
    modal_exception.ConnectionError: (StoreUnavailable, Unreachable),
    modal_exception.ClientClosed: (StoreUnavailable, Unreachable),  # by us, as this process ends
    modal_exception.ConflictError: (StoreUnavailable, ServerTrouble),  # FAILED_PRECONDITION, ABORTED
    modal_exception.ResourceExhaustedError: (StoreUnavailable, TooManyRequests),  # a rate or a quota
    modal_exception.TimeoutError: (StoreUnavailable, ServerTrouble),
    modal_exception.FunctionTimeoutError: (StoreUnavailable, ServerTrouble),
    modal_exception.OutputExpiredError: (StoreUnavailable, ServerTrouble),  # of a call; another one has a result again
    modal_exception.RemoteError: (StoreUnavailable, ServerTrouble),  # a container that ended, or could not start
    modal_exception.Error: (StoreUnavailable, ServerTrouble),  # one that is newer than this table
    # Refused, or not there: trying again changes nothing.
    modal_exception.AuthError: (StoreUnusable, Unauthorized),
    modal_exception.PermissionDeniedError: (StoreUnusable, Forbidden),
    modal_exception.NotFoundError: (StoreUnusable, NotFound),
    modal_exception.AlreadyExistsError: (StoreUnusable, Refused),
    modal_exception.InvalidError: (StoreUnusable, Refused),
    modal_exception.UnimplementedError: (StoreUnusable, Unsupported),
    modal_exception.VersionError: (StoreUnusable, Unsupported),  # this client is too old
    modal_exception.DataLossError: (StoreUnusable, Corrupt),
    modal_exception.RequestSizeError: (BadRequest, BadRequest),
    # Ours.
    modal_exception.ExecutionError: (Bug, Bug),  # used where it cannot be, as outside of a container
    modal_exception.SerializationError: (Bug, Bug),
    modal_exception.DeserializationError: (Bug, Bug),
    modal_exception.VolumeUploadTimeoutError: (StoreUnavailable, ServerTrouble),
    # Of what is not called here: sandboxes, logs, images, workspaces.
    modal_exception.SandboxTimeoutError: (Bug, Bug),
    modal_exception.SandboxTerminatedError: (Bug, Bug),
    modal_exception.SandboxFilesystemError: (Bug, Bug),
    modal_exception.SandboxFilesystemNotFoundError: (Bug, Bug),
    modal_exception.SandboxFilesystemDirectoryNotEmptyError: (Bug, Bug),
    modal_exception.SandboxFilesystemIsADirectoryError: (Bug, Bug),
    modal_exception.SandboxFilesystemNotADirectoryError: (Bug, Bug),
    modal_exception.SandboxFilesystemPermissionError: (Bug, Bug),
    modal_exception.SandboxFilesystemFileTooLargeError: (Bug, Bug),
    modal_exception.SandboxFilesystemPathAlreadyExistsError: (Bug, Bug),
    modal_exception.SnapshotCreationError: (Bug, Bug),
    modal_exception.ExecTimeoutError: (Bug, Bug),
    modal_exception.MountUploadTimeoutError: (Bug, Bug),
    modal_exception.InteractiveTimeoutError: (Bug, Bug),
    modal_exception.LogsFetchError: (Bug, Bug),
    modal_exception.WorkspaceManagementError: (Bug, Bug),
    modal_exception.ImageBuildError: (Bug, Bug),
    modal_exception.ModuleNotMountable: (Bug, Bug),
    # Below Modal's own.
    StreamTerminatedError: (StoreUnavailable, Unreachable),
    ProtocolError: (StoreUnavailable, Unreachable),
    OSError: (StoreUnavailable, Unreachable),  # TimeoutError and ConnectionError are among them
    concurrent.futures.CancelledError: (StoreUnavailable, Unreachable),  # the client's loop ends with this process
}
"""A class that is not here means what its nearest ancestor here means."""

_STATUSES: dict[Status, type[modal_exception.Error]] = {
    Status.INVALID_ARGUMENT: modal_exception.InvalidError,
    Status.NOT_FOUND: modal_exception.NotFoundError,
    Status.ALREADY_EXISTS: modal_exception.AlreadyExistsError,
    Status.PERMISSION_DENIED: modal_exception.PermissionDeniedError,
    Status.RESOURCE_EXHAUSTED: modal_exception.ResourceExhaustedError,
    Status.FAILED_PRECONDITION: modal_exception.ConflictError,
    Status.ABORTED: modal_exception.ConflictError,
    Status.OUT_OF_RANGE: modal_exception.InvalidError,
    Status.UNIMPLEMENTED: modal_exception.UnimplementedError,
    Status.DATA_LOSS: modal_exception.DataLossError,
    Status.UNAUTHENTICATED: modal_exception.AuthError,
}
"""What the client makes of a status where it makes something of it; a status that is not here is a ServiceError."""

_HINTS: dict[type[Trouble], str] = {
    StoreUnavailable: "try again in a moment; what is in the ledger is not lost",
    StoreUnusable: "`modal token info` shows whose token this is, and `modal app list` what it sees",
    Unauthorized: "`modal token info` shows whose token this is",
    ServerTrouble: "try again in a moment",
    Unreachable: "try again in a moment; is the network up?",
    TooManyRequests: "try again in a moment",
}


def trouble_of(error: BaseException, of: PlatformPart, doing: str) -> Trouble | None:
    """What an exception of the platform means; None for one that is not the platform's.

    Args:
        error: as it was raised; raise the answer `from` it.
        of: whether the store was asked, or something else.
        doing: what was going on, as in "reading the ledger".

    """
    if isinstance(error, Trouble):
        return error
    if isinstance(error, OSError) and isinstance(full := os_trouble(error, doing=doing), DiskFull):
        return full
    meaning = _meaning(error)
    if meaning is None:
        return None
    kind = meaning[0 if of == "store" else 1]
    text = " ".join(str(error).split())
    name = type(error).__name__
    return kind(f"{doing}: Modal says {name}{f': {text}' if text else ''}", hint=_HINTS.get(kind))


def no_answer(of: PlatformPart, doing: str, seconds: float) -> Trouble:
    """What it means that no answer came for so long."""
    kind: type[Trouble] = StoreUnavailable if of == "store" else ServerTrouble
    return kind(f"{doing}: Modal did not answer within {seconds:g} s", hint=_HINTS[kind])


def _meaning(error: BaseException) -> tuple[type[Trouble], type[Trouble]] | None:
    if isinstance(error, modal_exception.InputCancellation):
        return None
    if isinstance(error, GRPCError) and not isinstance(error, modal_exception.Error):
        return MEANINGS[_STATUSES.get(error.status, modal_exception.ServiceError)]
    for each in _with_origin(error):
        meaning = next((MEANINGS[kind] for kind in type(each).__mro__ if kind in MEANINGS), None)
        if meaning is not None:
            return meaning
    return None


def _with_origin(error: BaseException) -> Iterator[BaseException]:
    """A Volume makes a plain RuntimeError of two of its own errors; which one it was stands behind it."""
    yield error
    if type(error) is RuntimeError and isinstance(error.__context__, modal_exception.Error):
        yield error.__context__
