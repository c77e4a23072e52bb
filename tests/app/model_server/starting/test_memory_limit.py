"""How much memory a container may use, as the kernel's tables say it."""

import os
from pathlib import Path

import pytest

from app.model_server.starting.memory_limit import memory_limit


@pytest.mark.parametrize("table", ["max\n", "", None])
def test_without_a_limit_the_machine_is_the_limit(tmp_path: Path, table: str | None) -> None:
    """Where no limit is set, or no table shows one, all memory of the machine is there."""
    path = tmp_path / "memory.max"
    if table is not None:
        path.write_text(table)

    assert memory_limit(limits=[path]) == os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def test_the_smallest_limit_counts(tmp_path: Path) -> None:
    """A container's own limit counts where it is below the machine's memory."""
    (tmp_path / "memory.max").write_text("123456\n")

    assert memory_limit(limits=[tmp_path / "memory.max", tmp_path / "missing"]) == 123456
