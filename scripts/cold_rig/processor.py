"""Processor time, which tells the same on a busy machine as on a quiet one."""

import os
import resource
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
BEFORE = """
import modal, modal._container_entrypoint
from modal._runtime.task_lifecycle_manager import _TaskLifecycleManager
_TaskLifecycleManager._singleton = object()
"""
"""What a container has imported before it comes to us; by the last line the client knows that it is in one."""

OURS = f"{BEFORE}\nimport app.endpoint"


def imports_cost(times: int = 5) -> tuple[float, float]:
    """Seconds of processor, in the median: until a server's container has imported what is ours, and until then for
    the interpreter and the client. Nothing of ours is compiled before, as in a container that has just started."""
    spent = [(_spent(OURS), _spent(BEFORE)) for _ in range(times)]
    return statistics.median(whole for whole, _ in spent), statistics.median(before for _, before in spent)


def processor_of(pid: int) -> float:
    """Seconds of processor that a process has used so far; none of one that has ended."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text("latin-1").rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(stat[11]) + int(stat[12])) / os.sysconf("SC_CLK_TCK")


def _spent(code: str) -> float:
    before = _children()
    fresh = {"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, env={**os.environ, **fresh}, capture_output=True)
    return _children() - before


def _children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def busy() -> Iterator[str]:
    """A line where other programs want this machine as well."""
    load, processors = os.getloadavg()[0], os.cpu_count() or 1
    if load > processors:
        yield (
            f"this machine is busy: {load:.1f} programs want its {processors} processors, and waiting for one is in"
            " these figures"
        )
