"""The progress bars: rich lives here and nowhere else. What comes from outside is drawn as text, never as markup."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from rich.text import Text

from jobs.cli.terminal.screen import folded
from jobs.core.sanitize import plain, visible
from jobs.ledger.job import Job
from jobs.ledger.job_text import amounts, share


class Bars:
    """A bar for each job or batch that is shown."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._tasks: dict[str, TaskID] = {}

    def show(self, job: Job) -> None:
        reading = job.progress
        what = str(job.state) if job.has_ended or not reading.status else reading.status
        known = reading.total > 0
        done = reading.total if job.state == "succeeded" else min(reading.completed, reading.total)
        self.draw(
            job.id,
            f"{job.kind} {job.subject}",
            done if known else (1 if job.state == "succeeded" else 0),
            reading.total if known else (1 if job.has_ended else None),
            (share(job), *amounts(reading), what),
        )

    def draw(self, id: str, name: str, done: int, total: int | None, words: Iterable[str]) -> None:
        """The bar of this id: how much of what is done, in all and in words; None where nobody knows of how much."""
        if id not in self._tasks:
            self._tasks[id] = self._progress.add_task("", total=None, tail="")
        tail = plain("  ".join(word for word in words if word))
        self._progress.update(self._tasks[id], description=plain(name), total=total, completed=done, tail=tail)

    def print_line(self, line: str) -> None:
        for piece in folded(visible(line), self._progress.console.width):
            self._progress.console.print(Text(piece), soft_wrap=True)


@contextmanager
def bars() -> Iterator[Bars]:
    """Bars on stderr for as long as the block lasts; their last state stays on the screen."""
    progress = Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        TextColumn("{task.fields[tail]}", markup=False),
        console=Console(stderr=True, highlight=False, emoji=False),
    )
    with progress:
        yield Bars(progress)
