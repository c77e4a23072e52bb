"""What `ollama-modal up` has in memory beside what it uses: as little as its libraries allow."""

import subprocess
import sys

from tests.support.checkout import ROOT
from tests.support.waiting import PATIENCE

SERVING = """
import sys
from jobs.http.libraries_alone import import_libraries_alone
import_libraries_alone()
import app.local.stack
import httpx, uvicorn
httpx.Client().close()
print(*sorted({name.partition(".")[0] for name, module in sys.modules.items() if module is not None}))
"""

SPARED = {"rich", "pygments", "h2", "hpack", "hyperframe", "watchfiles"}
"""Five megabytes together, and time at each start."""


def test_a_gateway_has_no_command_line_of_its_libraries() -> None:
    """Nor what reads HTTP/2, nor what looks for changed code: nobody uses them there."""
    done = subprocess.run(
        [sys.executable, "-c", SERVING], cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE, check=True
    )
    imported = set(done.stdout.split())
    assert {"httpx", "httpcore", "uvicorn", "fastapi"} <= imported
    assert not imported & SPARED
