"""Has httpx imported without its own command line, which nobody here runs: that imports rich and click where they are
to be had, and takes longer than all the rest of it. Where they are not, httpx does without it by itself.
"""

import sys


def import_httpx_alone() -> None:
    """Before httpx is imported; later it changes nothing."""
    if "httpx" not in sys.modules:
        sys.modules["httpx._main"] = None  # type: ignore[assignment]  # by which Python knows that it is not to be had
