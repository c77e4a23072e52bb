"""Files that their modes keep from us, also where the tests are run by root."""

import ctypes
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

_VERSION = 0x20080522
_READS_AND_WRITES_ALL = 1 << 1 | 1 << 2
"""CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH (linux/capability.h)."""
_GET_SECUREBITS, _SET_SECUREBITS, _NO_SETUID_FIXUP = 27, 28, 1 << 2
"""Of prctl(2): without the last, `access` asks for what root may, not for what this thread may."""


class _Header(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _Sets(ctypes.Structure):
    _fields_ = (("effective", ctypes.c_uint32), ("permitted", ctypes.c_uint32), ("inheritable", ctypes.c_uint32))


@contextmanager
def modes_obeyed() -> Iterator[None]:
    """This thread reads and writes what the modes of files allow, whoever runs it; no other thread is concerned."""
    if os.geteuid() != 0:
        yield
        return
    if sys.platform != "linux":
        pytest.skip("root reads and writes whatever the mode says; run as somebody else, or on Linux, this runs")
    libc = ctypes.CDLL(None, use_errno=True)
    header, had = _Header(_VERSION, 0), (_Sets * 2)()

    def call(name: str, sets: ctypes.Array[_Sets]) -> None:
        if getattr(libc, name)(ctypes.byref(header), sets):
            raise OSError(ctypes.get_errno(), f"{name} failed")

    call("capget", had)
    secured = libc.prctl(_GET_SECUREBITS)
    if libc.prctl(_SET_SECUREBITS, secured | _NO_SETUID_FIXUP) < 0:
        pytest.skip("this root may not give up a right of its own; run as somebody else this runs")
    less = (_Sets * 2)(*had)
    less[0] = _Sets(had[0].effective & ~_READS_AND_WRITES_ALL, had[0].permitted, had[0].inheritable)
    call("capset", less)
    try:
        yield
    finally:
        call("capset", had)
        libc.prctl(_SET_SECUREBITS, secured)
