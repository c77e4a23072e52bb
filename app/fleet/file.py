"""Reads `fleet.toml`, and the two times that schedules are declared with, without checking the rest of it.

Whoever runs one command imports this and pays for no validation; a deployment checks all of it in `app.fleet.schema`.
"""

import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from jobs.core.errors import Refused

FLEET_FILE = Path(__file__).parent.with_name("fleet.toml")


class BadFleet(Refused, ValueError):
    """The fleet file is wrong.

    Args:
        message: which file, and what about it.
        problems: what is wrong in it, each with its key.

    """

    def __init__(self, message: str, problems: Iterable[str] = ()) -> None:
        super().__init__(message)
        self.problems = tuple(problems)

    def __str__(self) -> str:
        return "\n  ".join([super().__str__(), *self.problems])


def read(path: Path = FLEET_FILE) -> dict[str, Any]:
    """The file as it stands.

    Raises:
        BadFleet: it is not there, or no TOML.

    """
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BadFleet(f"{path} cannot be read: {error}") from error
    return parsed(text, path)


def parsed(text: str, path: Path) -> dict[str, Any]:
    """What the text of the file says.

    Raises:
        BadFleet: it is no TOML.

    """
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # beside its own errors: a number, or brackets, without end
        raise BadFleet(f"{path} is no TOML: {error}") from error


@dataclass(frozen=True)
class Times:
    """When the two scheduled functions run, as cron lines in one timezone."""

    tick: str
    nightly: str
    timezone: str

    @classmethod
    def of(cls, tick_minutes: int, nightly_hour: int, timezone: str) -> Self:
        return cls(f"*/{tick_minutes} * * * *", f"0 {nightly_hour} * * *", timezone)

    @classmethod
    def read(cls, path: Path = FLEET_FILE) -> Self:
        """The times in the file.

        Raises:
            BadFleet: the file does not say all three; whether they make sense, only `app.fleet.schema` checks.

        """
        schedule = read(path).get("schedule")
        try:
            return cls.of(schedule["tick_minutes"], schedule["nightly_hour"], schedule["timezone"])  # type: ignore[index]
        except (KeyError, TypeError) as error:
            raise BadFleet(f"{path}: schedule = {schedule!r}: lacks {error}") from error
