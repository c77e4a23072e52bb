"""Compiles the source that containers run: once for its content, not in each of them."""

import functools
import json
import subprocess
from pathlib import Path, PurePosixPath

from tests.modal.platform.interpreters import Interpreter
from tests.modal.platform.packages import kept
from tests.support.waiting import PATIENCE

COMPILE = """
import json, py_compile, sys
from pathlib import Path
for name, source, into in json.load(sys.stdin):
    target = Path(into, Path(name).stem + "." + sys.implementation.cache_tag + ".pyc")
    target.parent.mkdir(parents=True, exist_ok=True)
    py_compile.compile(
        source, str(target), "/" + name, quiet=2, invalidation_mode=py_compile.PycInvalidationMode.CHECKED_HASH
    )
"""
"""What does not compile is left to whoever imports it. Python compares contents: what was changed is compiled anew."""


def lay_out(sources: tuple[tuple[str, str], ...], python: Interpreter, root: Path) -> None:
    """Put beside each of these files, which are below `root`, what it is compiled to.

    Args:
        sources: each by its name below `root`, and where its bytes are, in a file that is named by them.
        python: compiles them.
        root: of a container.

    """
    for folder, compiled in _compiled(tuple(sorted(sources)), python):  # the client names them in any order
        (root / folder / "__pycache__").symlink_to(compiled)


@functools.cache
def _compiled(sources: tuple[tuple[str, str], ...], python: Interpreter) -> list[tuple[PurePosixPath, Path]]:
    """Each folder, and where that of it is kept which is compiled."""
    numbers = {folder: str(n) for n, folder in enumerate(sorted({PurePosixPath(name).parent for name, _ in sources}))}

    def make(within: Path) -> None:
        asked = [(name, source, str(within / numbers[PurePosixPath(name).parent])) for name, source in sources]
        subprocess.run(
            [python.path, "-c", COMPILE], input=json.dumps(asked), text=True, check=True, timeout=PATIENCE
        )  # fmt: skip

    content = [(name, Path(source).name) for name, source in sources]
    folder = kept([python.version, str(python.path), content], make)
    return [(each, folder / number) for each, number in numbers.items() if (folder / number).exists()]
