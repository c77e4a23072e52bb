"""Fixtures of what is kept of lines."""

from pathlib import Path

import pytest

from jobs.batches.files.storage import BatchStorage
from tests.support.batch_files import storage_at


@pytest.fixture
def storage(tmp_path: Path) -> BatchStorage:
    return storage_at(tmp_path)
