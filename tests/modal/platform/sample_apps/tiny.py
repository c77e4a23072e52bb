"""Functions that tell what a container is like, work on a volume, sleep until they are killed, and keep time."""

import os
import signal
import stat
import sys
import time
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

import modal

app = modal.App("tiny")
image = modal.Image.debian_slim().env({"COLOR": "deep blue"}).add_local_python_source("jobs")
weights = modal.Volume.from_name("tiny-weights", create_if_missing=True, version=2)
facts = modal.Dict.from_name("tiny-facts", create_if_missing=True)
secret = modal.Secret.from_name("tiny-secret", required_keys=["TOKEN"])
MOUNT = os.environ.get("SAMPLE_MOUNT", "/weights")
HERE = Path(MOUNT)


@app.function(image=image, secrets=[secret])
def look() -> dict[str, Any]:
    """What a container sees of the world."""
    from jobs.core.model_name import ModelName  # noqa: PLC0415 - shipped by `add_local_python_source`

    print("looking around")
    return {
        "color": os.environ["COLOR"],
        "token": os.environ["TOKEN"],
        "home": os.environ.get("HOME"),
        "ci": os.environ.get("ONLY_ON_THE_HOST"),
        "file": __file__,
        "name": str(ModelName.parse("llama3.2")),
        "local": modal.is_local(),
        "python": f"{sys.version_info.major}.{sys.version_info.minor}",
        "path": sys.path,
        "packages": [each.metadata["Name"] for each in distributions()],
        "environ": dict(os.environ),
        "started": [sys.argv, str(Path.cwd()), sys.flags.utf8_mode, os.getpid() == os.getsid(0), _descriptors()],
        "signals": [str(signal.getsignal(each)).partition(" at ")[0] for each in sorted(signal.valid_signals())],
        "modules": sorted(sys.modules),
    }


def _descriptors() -> list[str]:
    """Of what kind the standard streams are."""
    return [stat.filemode(os.fstat(each).st_mode)[0] for each in range(3)]


@app.function(image=image)
def fail(message: str) -> None:
    raise ValueError(message)


@app.function(image=image, volumes={MOUNT: weights}, max_containers=1, timeout=3600, retries=0)
def write(name: str, text: str, *, commit: bool = True) -> list[str]:
    (HERE / name).write_text(text)
    if commit:
        weights.commit()
    return sorted(path.name for path in HERE.iterdir())


@app.function(image=image, volumes={MOUNT: weights.with_mount_options(read_only=True)})
def read(name: str, *, reload: bool = True, hold: bool = False) -> str:
    """The file as this container sees it, perhaps after a reload, perhaps with the file held open meanwhile."""
    if hold:
        with (HERE / name).open():
            weights.reload()
    if reload:
        weights.reload()
    return (HERE / name).read_text() if (HERE / name).exists() else "absent"


@app.function(image=image, volumes={MOUNT: weights.with_mount_options(read_only=True)})
def spoil() -> None:
    (HERE / "spoiled").write_text("never")


@app.function(image=image, volumes={MOUNT: weights})
def linger(key: str) -> str:
    """Count the attempts; every one but the last leaves files behind and waits to be ended."""
    attempt = facts.get(key, 0) + 1
    (HERE / f"{key}-{attempt}").write_text("committed")
    weights.commit()
    (HERE / f"{key}-{attempt}-late").write_text("not committed")
    try:
        facts[key] = attempt
        while attempt == 1:
            time.sleep(0.05)
    except KeyboardInterrupt:
        facts[f"{key}/interrupted"] = attempt
        raise
    return f"attempt {attempt}: {sorted(path.name for path in HERE.glob(f'{key}-*'))}"


@app.function(image=image, schedule=modal.Cron("*/5 * * * *", timezone="Europe/Berlin"))
def tick() -> int:
    facts["ticks"] = facts.get("ticks", 0) + 1
    return int(facts["ticks"])


@app.local_entrypoint()
def main(word: str = "hello") -> None:
    seen = look.remote()
    print(f"{word}: {seen['color']}, {seen['name']}")
    call = write.spawn("greeting", word)
    print("spawned", call.get(timeout=60))
