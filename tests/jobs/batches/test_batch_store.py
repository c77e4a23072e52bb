"""A batch is the fold of its record, its state, its end and its job; to list many costs as much as to list few."""

import secrets
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from jobs.batches.batch_store import ORPHAN_AFTER, Batch, BatchStore
from jobs.batches.records import (
    BatchEnd,
    BatchRecord,
    BatchState,
    BatchStatus,
    BatchUse,
    EndStatus,
    LineCounts,
    LineError,
    new_batch_id,
)
from jobs.core.errors import NotFound, StoreUnavailable
from jobs.core.progress import Reading
from jobs.ledger.job import Ending
from jobs.ledger.ledger import Ledger
from jobs.store import keys
from jobs.store.sqlite import SqliteQueue
from jobs.testing.clock import HandClock
from tests.support.batch_files import CHAT
from tests.support.failing_stores import MemoryDict
