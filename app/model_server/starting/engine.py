"""Starts the engine: at the first line of a container, before anything else is imported.

The engine looks for its GPU for a second or more, and meanwhile all else is imported and asked. So this imports hardly
more than Python has imported already. Nobody asks the engine for a model before the view of the weights is complete; it
reads its folders anew for each request.
"""

import json
import os
import re
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jobs.ollama.host import OllamaHost

PORT = 11434
MODELS = "/models"
"""Where the weights are mounted: read-only on servers, writable for the weights worker."""

COMMAND = ("ollama", "serve")
"""As `app.engines.ollama` has it, which is not imported for this."""

CHECKED = Path(__file__).parents[3] / "checked_tiers.json"
"""In a container, beside the packages: what a deployment has put there of its one tier."""

_FOREIGN = re.compile(r"LLAMA_ARG_|MODAL_(IDENTITY_)?TOKEN$|OLLAMA_API_KEYS")
"""What is in a container's environment and not Ollama's to know: secrets, and what would change how models load."""


@dataclass(frozen=True)
class StartedEngine:
    """One that has been started.

    Args:
        child: its process, which leads a group of its own.
        disk: the container's directory, in which it has its home and its models.
        settings: what the file says of its tier.

    """

    child: "subprocess.Popen[str]"
    disk: Path
    settings: Mapping[str, Any]


def begun(environ: Mapping[str, str], volume: Path = Path(MODELS), checked: Path = CHECKED) -> StartedEngine | None:
    """The engine of the tier that the file tells of; None where it has to wait for more than that.

    So it is outside of a server's container, where the volume has no blobs yet, as their folder would have to become a
    link later, and where the program cannot be started, which whoever tries again is told.

    Args:
        environ: the container's.
        volume: where the weights are mounted.
        checked: that file.

    """
    try:
        [settings] = json.loads(checked.read_text("utf-8")).values()
    except (OSError, ValueError):
        return None
    if not (volume / "blobs").is_dir():
        return None
    disk = Path(tempfile.mkdtemp(prefix="ollama-"))
    models, home = models_and_home(disk)
    models.mkdir()
    if settings["models"]:  # each blob has a link of its own, beside what is set for these models
        (models / "blobs").mkdir()
    else:
        (models / "blobs").symlink_to(volume / "blobs", target_is_directory=True)
    command, code = _command_and_code(settings["engine"])
    whole = engine_environ(environ, settings["environ"], host=address(environ), models=models, home=home, code=code)
    try:
        return StartedEngine(launched(command, whole), disk, settings)
    except OSError:
        return None


def _command_and_code(name: str) -> tuple[tuple[str, ...], str]:
    if name == "ollama":
        return COMMAND, ""
    from app.engines.table import ENGINES  # noqa: PLC0415 - an Ollama need not wait for it

    engine = next(each for each in ENGINES.values() if each.name == name)
    return engine.command, engine.code


def address(environ: Mapping[str, str]) -> OllamaHost:
    """Where it shall listen; a trial run can have a port of its own."""
    return OllamaHost.parse(environ.get("OLLAMA_HOST", f"0.0.0.0:{PORT}"))


def models_and_home(disk: Path) -> tuple[Path, Path]:
    """The two directories of the engine on a container's disk; the second one is made."""
    home = disk / "home"
    home.mkdir(parents=True, exist_ok=True)
    return disk / "models", home


def engine_environ(
    inherited: Mapping[str, str],
    settings: Mapping[str, str],
    *,
    host: OllamaHost,
    models: Path,
    home: Path,
    code: str = "",
) -> dict[str, str]:
    """What the engine gets: the container's own variables, and above them what must be so; and where `code` of ours is
    that starts it, since it is started elsewhere."""
    kept = {key: value for key, value in inherited.items() if not _FOREIGN.match(key)}
    must = {
        "HOME": str(home),  # its key pair is written there
        "OLLAMA_HOST": f"{host.host}:{host.port}",
        "OLLAMA_MODELS": str(models),
        "OLLAMA_NOPRUNE": "1",  # a start would delete what other containers are still pulling
        "OLLAMA_NO_CLOUD": "1",  # nothing leaves for anybody else's servers
    }
    if code:
        must["PYTHONPATH"] = os.pathsep.join(filter(None, (code, inherited.get("PYTHONPATH"))))
    return {**kept, **settings, **must}


def launched(command: Sequence[str], environ: Mapping[str, Any]) -> "subprocess.Popen[str]":
    """A process in a group of its own, away from the volume; OSError where there is no such program."""
    return subprocess.Popen(
        command,
        env=environ,
        cwd="/",  # a working directory in the volume would forbid every reload
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    )
