"""Where `llama-server` of Ollama's image finds what it links to, and the GPU's backend: as Ollama tells it.

Beside the program lie its libraries, and a folder for each version of CUDA (ollama llm/llama_server.go, Dockerfile).
The newest that the driver has is taken; without a driver none is, and the engine runs on the CPU.
"""

import ctypes
import os
import re
from collections.abc import Mapping
from pathlib import Path

_FOLDER = re.compile(r"cuda_v(\d+)")
_BACKEND = "libggml-cuda.so"


def libraries_of(binary: Path, environ: Mapping[str, str], driver: int | None = None) -> dict[str, str]:
    """The variables that it is to be started with.

    Args:
        binary: the program.
        environ: what it inherits.
        driver: the version of CUDA that the driver has; by default the driver is asked.

    """
    folder = binary.resolve().parent
    most = _driver_version() if driver is None else driver
    versions = {int(match[1]): each for each in folder.glob("cuda_v*") if (match := _FOLDER.fullmatch(each.name))}
    newest = max((version for version in versions if version <= most), default=None)
    folders = [folder, *([versions[newest]] if newest is not None else [])]
    inherited = environ.get("LD_LIBRARY_PATH")
    path = os.pathsep.join([*map(str, folders), *([inherited] if inherited else [])])
    backend = folders[-1] / _BACKEND
    return {"LD_LIBRARY_PATH": path, **({"GGML_BACKEND_PATH": str(backend)} if backend.exists() else {})}


def _driver_version() -> int:
    """The version of CUDA that the driver has, and 0 without one."""
    number = ctypes.c_int()
    try:
        failed = ctypes.CDLL("libcuda.so.1").cuDriverGetVersion(ctypes.byref(number))
    except (OSError, AttributeError):
        return 0
    return 0 if failed else number.value // 1000
