"""Where the files of batches lie in a deployment: a volume of their own, which the gateway and the worker write."""

from pathlib import Path

from app.resources import BATCHES, batches_volume
from jobs.batches.files.storage import BatchStorage
from jobs.batches.limits import BatchLimits
from jobs.core.clock import Clock


def mounted_storage(limits: BatchLimits, clock: Clock) -> BatchStorage:
    """The storage of a container that mounts the volume: what it keeps is committed, what others keep is reloaded."""
    return BatchStorage(
        Path(BATCHES),
        clock,
        persist=batches_volume.commit,
        refresh=batches_volume.reload,
        quota_bytes=limits.quota_bytes,
    )
