"""Everything that can go wrong with a job, as one tree. Each error knows whether trying again can help.

    Trouble
    ├── Refused               refused    asked for something that cannot be done as asked
    │   ├── BadName                      not a model name by Ollama's grammar
    │   ├── BadRequest                   a job request with wrong or missing parameters
    │   ├── NewerOllamaNeeded            the registry answers 412: the model wants a newer Ollama
    │   ├── Unsupported                  this server or registry cannot do that, ever
    │   ├── Misconfigured                who is asked is reached in a wrong way: http or https, certificates
    │   ├── Unlisted                     the registry is none that may be pulled from (jobs.registry.allowlist)
    │   └── CpuFallback                  a GPU was promised and the model landed on the CPU
    ├── NotFound              not_found  the model, tag, blob or job does not exist
    │   └── ModelComing                  it is not there yet, but comes: worth another try
    ├── Unauthorized          auth       the registry or server wants credentials, or refuses those it got
    │   └── Forbidden                    the credentials are good, but not for this
    ├── NoRoom                disk       no place for the bytes
    │   ├── QuotaExceeded                the weights would outgrow their quota
    │   ├── RoomComing                   there is no room yet, but a prune is at work: worth another try
    │   ├── DiskFull                     the disk said ENOSPC or EDQUOT: somebody may free some, so it is tried again
    │   │   ├── NotEnoughRoom            known to be more than the disk has, before a byte was fetched
    │   │   └── StoreFull                the disk that holds the ledger's store
    │   ├── DiskFailed                   the disk failed at reading or writing; worth a few tries
    │   │   └── SystemExhausted              no descriptor or memory is left for now
    │   └── NotWritable                  the weights directory is not ours to write
    ├── NetworkTrouble        network    trying again can help
    │   ├── Unreachable                  no connection, no DNS, refused, timed out before an answer
    │   ├── Stalled                      no byte for longer than the stall limit
    │   ├── CutShort                     the answer ended before it was whole
    │   ├── TooManyRequests              429, perhaps with Retry-After
    │   ├── ServerTrouble                5xx, or an answer that makes no sense
    │   └── StoreUnavailable             the ledger's store failed, or did not answer in time; see StoreTrouble
    ├── Corrupt               corrupt    bytes that are not what their digest says; worth one more try
    │   └── PartsDamaged                 part files of an earlier pull cannot be read; remove them first
    ├── Killed                killed     the attempt ended from outside: lease lost, or handed back at a stop
    └── Bug                   bug        anything nobody foresaw; trying again repeats it

    StoreTrouble              what StoreUnavailable, StoreFull and StoreUnusable (refused) share, so that a loop,
                              a gateway and a command line can tell our own store from the other side

    Interrupted               never recorded as a failure: the worker's own business
    ├── Fenced                           somebody else ended this attempt, or its lease ran out: stop without a trace
    ├── Cancelled                        the job was cancelled
    └── HandedBack                       the worker is asked to stop; the attempt goes back
        └── PutOff                       there is nothing to do until later, and it goes back until then

Nobody reads message text to decide anything: `failure_class` and `tries` are what code looks at.
"""

import errno
from datetime import datetime, timedelta
from typing import ClassVar, Literal, get_args

FailureClass = Literal["not_found", "auth", "disk", "network", "corrupt", "killed", "refused", "bug"]
FAILURE_CLASSES: tuple[FailureClass, ...] = get_args(FailureClass)


class Trouble(Exception):
    """Something went wrong with a job or a request.

    Args:
        message: what happened, to which thing. The class docstring's first line stands in when it is left out.
        hint: what to do next, in one line; shown on a line of its own.
        retry_after: the other side's own wish, when it said one (429 or 503 with Retry-After).

    """

    failure_class: ClassVar[FailureClass] = "bug"
    tries: ClassVar[int | None] = 1
    """How many attempts of this class a job is worth in all; None is as many as the job allows."""
    problems: tuple[str, ...] = ()
    """Where several things are wrong at once: each of them, to be shown whole, on a line of its own."""

    def __init__(
        self, message: str | None = None, *, hint: str | None = None, retry_after: timedelta | None = None
    ) -> None:
        super().__init__(message or (self.__doc__ or "").strip().splitlines()[0])
        self.hint = hint
        self.retry_after = retry_after

    @property
    def can_retry(self) -> bool:
        return self.tries != 1


class Refused(Trouble):
    """This cannot be done as asked."""

    failure_class = "refused"


class BadName(Refused, ValueError):
    """Not a model name."""


class BadRequest(Refused, ValueError):
    """The request has wrong or missing parameters."""


class NewerOllamaNeeded(Refused):
    """The model needs a newer Ollama."""


class Unsupported(Refused):
    """The other side cannot do this."""


class Misconfigured(Refused):
    """The other side cannot be asked like this: somebody has to change how."""


class CpuFallback(Refused):
    """A GPU was promised, but the model runs on the CPU."""


class NotFound(Trouble):
    """It does not exist."""

    failure_class = "not_found"


class ModelComing(NotFound):
    """The model is not there yet, but it is coming."""

    tries = None


class Unauthorized(Trouble):
    """Credentials are missing or refused."""

    failure_class = "auth"


class Forbidden(Unauthorized):
    """These credentials do not allow that."""


class NoRoom(Trouble):
    """There is no room for the weights."""

    failure_class = "disk"


class QuotaExceeded(NoRoom):
    """The weights would outgrow their quota."""


class RoomComing(NoRoom):
    """There is no room yet, but a prune is at work."""

    tries = None


class DiskFull(NoRoom):
    """The disk is full."""

    tries: ClassVar[int | None] = None


class NotEnoughRoom(DiskFull):
    """The disk has not that much left."""

    tries = 1


class DiskFailed(NoRoom):
    """The disk failed."""

    tries = 3


class SystemExhausted(DiskFailed):
    """The system has no more descriptors or memory for us."""


class NotWritable(NoRoom):
    """The weights directory cannot be written."""


class NetworkTrouble(Trouble):
    """The network or the other side failed for now."""

    failure_class = "network"
    tries = None


class Unreachable(NetworkTrouble):
    """Nothing answers there."""


class Stalled(NetworkTrouble):
    """No byte arrived for longer than the stall limit."""


class CutShort(NetworkTrouble):
    """The answer ended before it was whole."""


class TooManyRequests(NetworkTrouble):
    """The other side asks us to slow down."""


class ServerTrouble(NetworkTrouble):
    """The other side answered with an error of its own."""


class StoreTrouble(Trouble):
    """The store that keeps the ledger cannot be used."""


class StoreUnavailable(StoreTrouble, NetworkTrouble):
    """The store that keeps the ledger did not answer, or failed for now."""


class StoreFull(StoreTrouble, DiskFull):
    """The disk that holds the ledger is full."""


class StoreUnusable(StoreTrouble, Refused):
    """The store that keeps the ledger refuses us, or is no ledger: trying again changes nothing."""


class Corrupt(Trouble):
    """The bytes are not what their digest says."""

    failure_class = "corrupt"
    tries = 2


class PartsDamaged(Corrupt):
    """Part files of an earlier pull cannot be read."""


class Killed(Trouble):
    """The attempt was ended from outside."""

    failure_class = "killed"
    tries = None


class Bug(Trouble):
    """Something nobody foresaw."""


class Interrupted(Exception):
    """The attempt stops here, and its task must stop without further effect."""


class Fenced(Interrupted):
    """This attempt is no longer ours."""


class Cancelled(Interrupted):
    """The job was cancelled."""


class HandedBack(Interrupted):
    """The worker is stopping; the attempt goes back to the queue."""


class PutOff(HandedBack):
    """There is nothing to do before `until`, which is no failure."""

    def __init__(self, why: str, until: datetime) -> None:
        super().__init__(why)
        self.until = until


_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_NOT_OURS = frozenset({errno.EROFS, errno.EACCES, errno.EPERM})
_FAILED = frozenset({errno.EIO, errno.ESTALE, errno.ENXIO, errno.ENODEV})
_EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN})


def is_exhausted(error: OSError) -> bool:
    """Whether the system has no descriptor or memory left, which others may give back in a moment."""
    return error.errno in _EXHAUSTED


def os_trouble(error: OSError, *, doing: str) -> Trouble:
    """What the operating system's refusal means for a job: no room, not ours to write, or nothing we foresaw.

    Args:
        error: as the system raised it; raise the answer `from` it.
        doing: what was going on, as in "writing blob sha256:…".

    """
    where = f" ({error.filename})" if error.filename else ""
    said = f"{doing}: {error.strerror or error}{where}"
    if error.errno in _FULL:
        return DiskFull(said, hint="free some space, or delete a model; what was fetched so far is kept")
    if error.errno in _NOT_OURS:
        return NotWritable(said, hint="let this user own the models directory, or name another one")
    if isinstance(error, ConnectionError | TimeoutError):
        return Unreachable(said)
    if is_exhausted(error):
        return SystemExhausted(said, hint="raise the limit of open files (`ulimit -n`), or ask for less at once")
    if error.errno in _FAILED:
        return DiskFailed(said, hint="see what the system's log says of that disk; what was fetched so far is kept")
    return Bug(said)
