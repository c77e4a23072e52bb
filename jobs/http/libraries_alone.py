"""Has libraries imported without what nobody here uses of them, which takes longer and more memory than the rest.

Each of these parts is for those who have installed more: where it is not to be had, its library does without.
"""

import sys
from collections.abc import Mapping

_SPARED: Mapping[str, tuple[str, ...]] = {
    "httpx": ("httpx._main",),  # its command line, with rich and pygments
    "httpcore": ("httpcore._sync.http2", "httpcore._async.http2"),  # with h2; nobody here asks for HTTP/2
    "uvicorn": ("uvicorn.supervisors.watchfilesreload",),  # with watchfiles; nobody here has it look for changed code
}


def import_libraries_alone() -> None:
    """Before they are imported; of a library that is there already it changes nothing."""
    for library, parts in _SPARED.items():
        if library not in sys.modules:
            for part in parts:
                sys.modules[part] = None  # type: ignore[assignment]  # by which Python knows that it is not to be had
