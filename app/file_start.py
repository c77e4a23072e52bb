"""What happens when `modal` is given the path of a file in here instead of a module: nobody finds `jobs` then.

A path puts its folder before all others that imports look in, and there `jobs` is `app/jobs.py`. So whatever was named,
that file is imported under a name that is not its own, and comes here before it imports anything.
"""

import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import PurePath
from typing import NoReturn

USAGE = 2


def refuse(argv: Sequence[str]) -> NoReturn:
    """End the command, with the one that was meant; `modal` would show an exception with its trace."""
    sys.stderr.write("error: this is part of a package, and cannot be started by the path of a file\n")
    sys.stderr.write(f"hint: use -m, in the root of the checkout: `{meant(argv)}`\n")
    raise SystemExit(USAGE)


def meant(argv: Sequence[str]) -> str:
    """The command with the module in place of the path: `app/jobs.py::pull` is `-m app.jobs::pull`."""
    words = [PurePath(argv[0]).name]
    for word in argv[1:]:
        path = re.fullmatch(r"(.*)\.py(::.*)?", word)
        words += ["-m", f"app.{PurePath(path[1]).name}{path[2] or ''}"] if path else [word]
    return shlex.join(words)
