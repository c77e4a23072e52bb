"""The real queue satisfies our shapes, and so do ours, and what is around the real ones; mypy is the test."""

import modal

from app.deployment.weights_worker import Commits
from app.platform.store import LimitedDict, LimitedQueue
from app.platform.volume import LimitedVolume
from jobs.core.clock import Clock, SystemClock
from jobs.store.by_sort import DictBySort
from jobs.store.protocols import QueueLike, ShrinkingDict
from jobs.store.sqlite import SqliteDict, SqliteQueue
from jobs.testing.clock import HandClock


def shapes(
    modal_queue: modal.Queue, sqlite_queue: SqliteQueue, sqlite_dict: SqliteDict, by_sort: DictBySort
) -> tuple[list[QueueLike], list[ShrinkingDict], list[Clock]]:
    return [modal_queue, sqlite_queue], [sqlite_dict, by_sort], [SystemClock(), HandClock()]


def around_them(
    limited_queue: LimitedQueue, limited_dict: LimitedDict, volume: modal.Volume, limited_volume: LimitedVolume
) -> tuple[QueueLike, ShrinkingDict, list[Commits]]:
    return limited_queue, limited_dict, [volume, limited_volume]
