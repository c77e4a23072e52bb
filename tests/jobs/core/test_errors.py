"""Promises of jobs.core.errors."""

import errno
import os

import pytest

from jobs.core.errors import Bug, DiskFailed, DiskFull, NotWritable, SystemExhausted, Trouble, Unreachable, os_trouble


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (errno.ENOSPC, DiskFull),
        (errno.EDQUOT, DiskFull),
        (errno.EFBIG, DiskFull),
        (errno.EROFS, NotWritable),
        (errno.EACCES, NotWritable),
        (errno.EPERM, NotWritable),
        (errno.EIO, DiskFailed),
        (errno.EMFILE, SystemExhausted),
        (errno.ENOMEM, SystemExhausted),
        (errno.ECONNRESET, Unreachable),
        (errno.ENOTDIR, Bug),
    ],
)
def test_the_systems_refusal_becomes_trouble_that_names_file_and_doing(code: int, kind: type[Trouble]) -> None:
    """A full disk, a disk that is not ours, and anything else are told apart, and say what was going on where."""
    trouble = os_trouble(OSError(code, os.strerror(code), "blobs/sha256-ab"), doing="writing a blob")
    assert type(trouble) is kind
    assert str(trouble) == f"writing a blob: {os.strerror(code)} (blobs/sha256-ab)"


def test_a_refusal_without_number_or_file_still_reads_well() -> None:
    """An OSError that carries a text alone is passed on with it."""
    assert str(os_trouble(OSError("odd"), doing="listing")) == "listing: odd"
