"""The slow volume of `bench_cold` leaves nothing behind, whatever ends the run that mounted it."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.checkout import ROOT
from tests.support.waiting import PATIENCE, until

RUN = """
import signal, sys, time
from pathlib import Path
from cold_rig.needs import NoRig
from cold_rig.slow_volume import VolumeSpeed, build, mounted, scratch

signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
folder = Path(sys.argv[1])
try:
    with scratch() as own, mounted(build(folder), folder, own / "volume", VolumeSpeed(latency_ms=0)) as volume:
        assert (volume / "file").read_text() == "there"
        print(volume, flush=True)
        time.sleep(3600)
except NoRig as missing:
    print("not here:", missing, flush=True)
"""

LEFT_OVER = """
import sys
from pathlib import Path
from cold_rig.slow_volume import remove_left_over
print(*remove_left_over(Path(sys.argv[1])))
"""


@contextmanager
def python(code: str, *arguments: Path, temporary: Path) -> Iterator["subprocess.Popen[str]"]:
    """It is gone when it is left, so that a promise that does not hold is told at once."""
    environ = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(map(str, (ROOT, ROOT / "scripts"))),
        "TMPDIR": str(temporary),
    }
    words = [sys.executable, "-c", code, *map(str, arguments)]
    with subprocess.Popen(words, env=environ, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def is_mounted(folder: Path) -> bool:
    return str(folder).replace(" ", r"\040") in Path("/proc/mounts").read_text("utf-8")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL], ids=lambda each: each.name)
def test_a_run_that_is_ended_leaves_no_mount(tmp_path: Path, number: signal.Signals) -> None:
    """Ended by its limit, by hand or by force: the volume is unmounted at once. What lay in its folder is gone as well,
    or is removed by the next run, which leaves that of a run at work alone."""
    (tmp_path / "source").mkdir()
    (tmp_path / "source/file").write_text("there")
    (tmp_path / "tmp").mkdir()
    with python(RUN, tmp_path / "source", temporary=tmp_path / "tmp") as run:
        assert run.stdout is not None
        said = run.stdout.readline().strip()
        if said.startswith("not here:"):
            pytest.skip(f"no volume can be mounted {said}")
        assert is_mounted(Path(said))
        with python(LEFT_OVER, tmp_path / "tmp", temporary=tmp_path) as other:
            assert other.communicate(timeout=PATIENCE)[0] == "\n"
        run.send_signal(number)
        run.wait(timeout=PATIENCE)
    until(lambda: not is_mounted(Path(said)), "the end of the mount")
    with python(LEFT_OVER, tmp_path / "tmp", temporary=tmp_path) as after:
        removed, _ = after.communicate(timeout=PATIENCE)
    assert bool(removed.strip()) == (number is signal.SIGKILL)
    assert not list((tmp_path / "tmp").iterdir())
