"""How much memory a container has, and what a process has taken in, as the kernel's tables say it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from app.model_server.loading import memory
from tests.support.waiting import until


@pytest.mark.parametrize("table", ["max\n", "", None])
def test_without_a_limit_the_machine_is_the_limit(tmp_path: Path, table: str | None) -> None:
    """Where no limit is set, or no table shows one, all memory of the machine is there."""
    path = tmp_path / "memory.max"
    if table is not None:
        path.write_text(table)

    assert memory.limit(limits=[path]) == os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def test_the_smallest_limit_counts(tmp_path: Path) -> None:
    """A container's own limit counts where it is below the machine's memory."""
    (tmp_path / "memory.max").write_text("123456\n")

    assert memory.limit(limits=[tmp_path / "memory.max", tmp_path / "missing"]) == 123456


def test_what_a_descendant_reads_and_maps_counts(tmp_path: Path) -> None:
    """Bytes that a child's child has read or touched are told of the process that began it all."""
    blob = tmp_path / "blob"
    blob.write_bytes(bytes(30_000_000))
    grandchild = f"""
import mmap, time
file = open({str(blob)!r}, "rb")
mapped = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
mapped.find(b"x")
time.sleep(600)
"""
    child = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {grandchild!r}])"
    process = subprocess.Popen([sys.executable, "-c", child], start_new_session=True)
    try:
        until(lambda: memory.taken_in(process.pid) >= 30_000_000)
    finally:
        os.killpg(process.pid, 9)
        process.wait()

    assert memory.taken_in(process.pid) == 0
