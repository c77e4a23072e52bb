"""The demo, as a stranger runs it."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_the_demo_shows_the_main_job_and_cleans_up(tmp_path: Path) -> None:
    """The demo pulls, verifies, warms and asks, prints the job's story, exits 0, and leaves nothing behind."""
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    environ = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "TMPDIR": str(scratch), "OLLAMA_HOST": "127.0.0.1:9"}
    done = subprocess.run(
        [sys.executable, ROOT / "scripts" / "demo.py", "--simulate"],
        env=environ,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for told in ("ready http://127.0.0.1:", "pull done: llama3.2:latest", "warm done: llama3.2:latest", "You said:"):
        assert told in done.stdout
    assert "pull of llama3.2:latest: succeeded" in done.stdout
    assert list(scratch.iterdir()) == []
    assert list(tmp_path.iterdir()) == [scratch]
