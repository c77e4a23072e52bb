"""The systemd units that ship are accepted by systemd and agree with each other."""

import configparser
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support.checkout import ROOT

SCRIPTS = ROOT / "scripts"
UNITS = [SCRIPTS / "ollama.service", SCRIPTS / "ollama-modal.service"]


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
def test_systemd_accepts_both_units() -> None:
    """systemd-analyze has nothing to say about either unit."""
    done = subprocess.run(["systemd-analyze", "verify", *UNITS], capture_output=True, text=True, check=False)

    assert (done.returncode, done.stderr) == (0, "")


def settings(unit: Path) -> tuple[configparser.SectionProxy, dict[str, str]]:
    """The service section, and the variables it sets."""
    lines = unit.read_text("utf-8").splitlines()
    pairs = [line.removeprefix("Environment=").split("=", 1) for line in lines if line.startswith("Environment=")]
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    parser.read_string("\n".join(lines))
    return parser["Service"], dict(pairs)


def test_both_units_share_the_models() -> None:
    """The stack and Ollama run as one user on one models directory, on loopback, and prune nothing at a start."""
    (ollama, ollama_environ), (stack, stack_environ) = map(settings, UNITS)

    for variable in ("OLLAMA_HOST", "OLLAMA_MODELS"):
        assert ollama_environ[variable] == stack_environ[variable]
    assert ollama["User"] == stack["User"] == "ollama"
    assert ollama_environ["OLLAMA_HOST"].startswith("127.0.0.1:")
    assert ollama_environ["OLLAMA_NOPRUNE"] == "1"
