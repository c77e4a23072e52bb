"""A file of results: whole or not at all, and nobody's own is overwritten."""

import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from jobs.cli.batches.results_file import ResultsFile
from jobs.core.errors import DiskFull, NotFound, Refused
from tests.support.checkout import ROOT
from tests.support.waiting import PATIENCE


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def broken(after: int, error: Exception) -> Iterator[bytes]:
    """So many lines, and then what breaks them off."""
    yield from (b"line\n" for _ in range(after))
    raise error


@pytest.mark.parametrize("overwrite", [False, True])
def test_it_is_there_when_it_is_whole(tmp_path: Path, overwrite: bool) -> None:
    """And nothing else is left beside it."""
    path = tmp_path / "out.jsonl"
    ResultsFile(path, overwrite=overwrite).write([b"a\n", b"b\n"])
    assert path.read_bytes() == b"a\nb\n"
    assert names(tmp_path) == ["out.jsonl"]


@pytest.mark.parametrize("error", [NotFound("the file is gone"), OSError(28, "No space left on device")])
def test_what_is_broken_off_leaves_what_was_there(tmp_path: Path, error: Exception) -> None:
    """Whether the results cannot be read on, or the disk is full: that is said, and no half of it is left."""
    path = tmp_path / "out.jsonl"
    path.write_text("mine")
    with pytest.raises(DiskFull if isinstance(error, OSError) else NotFound):
        ResultsFile(path, overwrite=True).write(broken(10_000, error))
    assert path.read_text() == "mine"
    assert names(tmp_path) == ["out.jsonl"]


def test_what_has_come_meanwhile_is_not_overwritten(tmp_path: Path) -> None:
    """Though it was not there when somebody looked."""
    path = tmp_path / "out.jsonl"
    out = ResultsFile(path, overwrite=False)
    out.need()

    def lines() -> Iterator[bytes]:
        yield b"a\n"
        path.write_text("mine")

    with pytest.raises(Refused, match="is there already"):
        out.write(lines())
    assert path.read_text() == "mine"
    assert names(tmp_path) == ["out.jsonl"]


def test_a_link_leads_to_the_file_that_is_replaced(tmp_path: Path) -> None:
    """The link stays one."""
    (tmp_path / "real.jsonl").write_text("old")
    link = tmp_path / "link.jsonl"
    link.symlink_to("real.jsonl")
    ResultsFile(link, overwrite=True).write([b"new"])
    assert link.is_symlink()
    assert (tmp_path / "real.jsonl").read_text() == "new"


def test_what_is_no_file_is_left_alone(tmp_path: Path) -> None:
    """A device that is replaced would be one for nobody any more, even with --yes."""
    with pytest.raises(Refused, match="is no file that could be written"):
        ResultsFile(Path(os.devnull), overwrite=True).need()
    with pytest.raises(Refused, match="is no file that could be written"):
        ResultsFile(tmp_path, overwrite=True).need()


def test_a_kill_leaves_no_half(tmp_path: Path) -> None:
    """Under its name there is nothing until all of it is."""
    path = tmp_path / "out.jsonl"
    program = """
        import sys
        from pathlib import Path
        from jobs.cli.batches.results_file import ResultsFile

        def lines():
            for _ in range(20_000):
                yield b"line\\n"
            print("half", flush=True)
            sys.stdin.read()

        ResultsFile(Path(sys.argv[1]), overwrite=True).write(lines())
    """
    command = [sys.executable, "-c", textwrap.dedent(program), str(path)]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "half\n"
        process.send_signal(signal.SIGKILL)
        process.wait(PATIENCE)
    assert not path.exists()
