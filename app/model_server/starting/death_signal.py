"""For processes that are not to outlive who started them: Linux tells them of our end (PR_SET_PDEATHSIG).

macOS has nothing of the kind.
"""

import signal
import sys

# Run between fork and exec by the child itself. What a thread of ours held at the fork could stop Python code there
# for ever, so it is a program of its own that becomes the server.
_PROGRAM = """
import ctypes, os, sys
ctypes.CDLL(None).prctl(1, int(sys.argv[2]))  # PR_SET_PDEATHSIG
if os.getppid() != int(sys.argv[1]):  # we died before it took effect
    os._exit(1)
os.execvp(sys.argv[3], sys.argv[3:])
"""


def with_death_signal(parent: int, number: signal.Signals = signal.SIGTERM) -> list[str]:
    """What a command line begins with, for the process to be sent this when the parent dies.

    Linux takes the end of the starting *thread* for the death of the parent.
    """
    if sys.platform != "linux":
        return []
    return [sys.executable, "-I", "-S", "-c", _PROGRAM, str(parent), str(int(number))]
