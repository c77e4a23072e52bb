"""Processor time, which tells the same on a busy machine as on a quiet one."""

import os
import resource
import statistics
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
BEFORE = "import modal, modal._container_entrypoint"
"""What a container has imported before it comes to us."""

OURS = f"{BEFORE}\nimport app.endpoint"


def imports_cost(times: int = 5) -> float:
    """Seconds of processor that a server's container spends on importing what is ours, in the median."""
    return statistics.median(_spent(OURS) - _spent(BEFORE) for _ in range(times))


def _spent(code: str) -> float:
    before = _children()
    environ = {**os.environ, "MODAL_IS_REMOTE": "1", "MODAL_TASK_ID": "ta-0", "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, env=environ, capture_output=True)
    return _children() - before


def _children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
