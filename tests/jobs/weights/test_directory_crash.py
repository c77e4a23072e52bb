"""The models directory under SIGKILL, watched by a reader that never stops looking."""

import json
import subprocess
import sys
from pathlib import Path

from jobs.weights.directory import ModelsDirectory
from jobs.weights.manifest import Manifest
from tests.support.checkout import ROOT
from tests.support.models_directory import weights_at


def look(weights: ModelsDirectory) -> int:
    """Assert that no manifest stands without its blobs; how many models were seen.

    Of a model that is being removed the manifest goes first, so where a blob is missing, the manifest is gone by then.
    """
    seen = 0
    for file in weights.layout.manifest_files():
        try:
            manifest = Manifest.parse(file.path.read_bytes())
        except FileNotFoundError:
            continue
        missing = [layer for layer in manifest.blobs if weights.blob_state(layer) != "present"]
        assert not missing or not file.path.exists(), f"{file.name} is listed without {missing}"
        seen += 1
    return seen


def test_killed_anywhere_a_reader_sees_whole_models_only(tmp_path: Path) -> None:
    """Killed before each file system step and at random moments of publishing and removing, no manifest is ever seen
    torn or without its blobs, and the next attempt ends with exactly the files of an undisturbed one."""
    weights = weights_at(tmp_path)
    command = [sys.executable, "-m", "tests.support.crash_driver", str(tmp_path), "25"]
    looks = seen = 0
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as driver:
        try:
            while driver.poll() is None:
                seen += look(weights)
                looks += 1
        finally:
            driver.kill()
        told, trouble = driver.communicate()
    assert (driver.returncode, trouble) == (0, "")
    kills = json.loads(told)
    assert kills["publish"] > 20
    assert kills["remove"] > 10
    assert looks > 50
    assert seen > 0
