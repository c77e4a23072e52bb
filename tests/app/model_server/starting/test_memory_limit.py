"""How much memory a container may use, as the kernel's tables say it."""

import os
from pathlib import Path

import pytest

from app.model_server.starting.memory_limit import memory_limit
from app.model_server.starting.read_ahead import most_ahead


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


@pytest.mark.parametrize(("machine", "table"), [(0, "max"), (0, "-1"), (0, "\u00fc"), (-1, "0")])
def test_where_nobody_knows_it_is_not_known(tmp_path: Path, machine: int, table: str) -> None:
    """A kernel that tells neither: then so much is read ahead as harms no container that loads models."""
    path = tmp_path / "memory.max"
    path.write_text(table, "utf-8")
    assert memory_limit(limits=[path], machine=lambda: max(0, machine)) is None
    assert 0 < most_ahead(None) < 4_000_000_000
