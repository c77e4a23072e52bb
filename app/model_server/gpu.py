"""Which GPU this container really has, by the driver's own word. It loads nothing and uses none of it."""

import subprocess
from dataclasses import dataclass

from jobs.core.errors import CpuFallback

_QUERY = ("nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader,nounits")
_PATIENCE_SECONDS = 30


@dataclass(frozen=True)
class Gpu:
    name: str
    vram_bytes: int
    count: int = 1


def find() -> Gpu:
    """The GPUs of this container, taken for equal ones.

    Raises:
        CpuFallback: there is none, or its driver does not answer.

    """
    try:
        done = subprocess.run(_QUERY, capture_output=True, text=True, timeout=_PATIENCE_SECONDS, check=True)
        rows = [line.rsplit(",", 1) for line in done.stdout.strip().splitlines()]
        return Gpu(rows[0][0].strip(), sum(int(row[1]) for row in rows) * 2**20, len(rows))
    except FileNotFoundError as error:
        raise _none("there is no nvidia-smi") from error
    except subprocess.CalledProcessError as error:
        said = (error.stderr or error.stdout).strip()
        raise _none(f"nvidia-smi ended with {error.returncode}: {said[:200]}") from error
    except subprocess.TimeoutExpired as error:
        raise _none(f"nvidia-smi did not answer within {_PATIENCE_SECONDS} s") from error
    except (IndexError, ValueError) as error:
        raise _none(f"nvidia-smi said {done.stdout.strip()[:200]!r}") from error


def _none(why: str) -> CpuFallback:
    return CpuFallback(
        f"a GPU was promised, but {why}",
        hint="the next container may have one; a tier that needs none leaves out `gpu` in app/fleet.toml",
    )
