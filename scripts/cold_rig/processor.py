"""Processor time, which tells the same on a busy machine as on a quiet one."""

import os
import resource
import statistics
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
BEFORE = """
import modal, modal._container_entrypoint
from modal._runtime.task_lifecycle_manager import _TaskLifecycleManager
_TaskLifecycleManager._singleton = object()
"""
"""What a container has imported before it comes to us; by the last line the client knows that it is in one."""

OURS = f"{BEFORE}\nimport app.endpoint"


def imports_cost(times: int = 5) -> float:
    """Seconds of processor that a server's container spends on importing what is ours, in the median. Nothing of it is
    compiled before, as in a container that has just started."""
    return statistics.median(_spent(OURS) - _spent(BEFORE) for _ in range(times))


def _spent(code: str) -> float:
    before = _children()
    fresh = {"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, env={**os.environ, **fresh}, capture_output=True)
    return _children() - before


def _children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
