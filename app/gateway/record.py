"""What is kept of a request: one record, written exactly once, with how it ended and by what evidence.

Success means that the terminator was seen. What the record goes to, `Books` and the meters, never makes a caller wait.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Literal, Protocol

Ending = Literal["success", "client_gone", "upstream_cut", "timeout", "refused", "error"]
"""
success       the end of the answer was seen
client_gone   the caller left before
upstream_cut  the server's answer ended before its end
timeout       the server was silent for too long
refused       answered with a status of 400 to 499, here or there, or 503 because too many wait
error         answered with another error, or with an error inside the stream
"""


@dataclass(frozen=True)
class Served:
    """One request to a model. `model` and `tier` are empty when it did not come so far."""

    request_id: str
    at: datetime
    key: str
    model: str
    tier: str
    route: str
    """The path as the table has it."""
    dialect: str
    ending: Ending
    status: int
    prompt_tokens: int | None
    output_tokens: int | None
    first_byte_seconds: float | None
    seconds: float
    held_seconds: float
    """How long it waited for a server to wake or a model to load."""
    woke: bool
    """Whether this request is the one that woke the tier."""


class Recorder(Protocol):
    """Takes records, on the event loop. It must return at once, whatever becomes of them."""

    def add(self, served: Served) -> None: ...
