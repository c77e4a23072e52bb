"""What whoever deploys is told of a fleet file: each error on a line of its own, or what in it has no effect.

Modal's own command shows an exception by a page of source in a frame, which cuts and wraps the lines.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import modal

from jobs.core.errors import Refused


@contextmanager
def refusals_told() -> Iterator[None]:
    """For what is read while a module is imported: end the command of who deploys with 2 and lines; in a container,
    where nobody reads them, let it be raised."""
    try:
        yield
    except Refused as refusal:
        if not modal.is_local():
            raise
        from jobs.cli.output import complain  # noqa: PLC0415 - containers import this file, and have no use for it

        complain(refusal)
        raise SystemExit(2) from None


def tell(notes: Iterable[str]) -> None:
    """To whoever deploys; a container has its own log."""
    from jobs.cli.output import say  # noqa: PLC0415

    if modal.is_local():
        for note in notes:
            say(f"warning: {note}")
