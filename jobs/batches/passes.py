"""The pass of a batch: what its lines show the gateway in place of a key, which stays its owner's secret. Pure.

Whoever holds the batch makes one, writes down what proves it (`batch_pass/<id>`), and does so again with each beat, so
that it never runs out while lines are sent. Only its hash is ever stored. It opens the routes of `ENDPOINTS`, and
nothing else, as far as the owner's key may still ask them.
"""

import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Self

from jobs.access.keys.proofs import hash_of
from jobs.batches.records import VERSION
from jobs.core.clock import isoformat, parse_moment
from jobs.core.sanitize import PASS_PREFIX

PREFIX = PASS_PREFIX
"""So that a pass is recognised wherever it should not be, as a key is."""

_PASS = re.compile(rf"{PREFIX}((?:batch|msgbatch)_[0-9a-f]{{24}})\.[A-Za-z0-9_-]{{43}}", re.ASCII)

LINE = "x-batch-line"
"""The header that tells why a line was not answered: one of the words below, or it is not there."""

NOT_NOW, SPENT, REFUSED = "not-now", "spent", "refused"
"""
not-now  503 and when to come again: no room for so long, cut because a person came, the tier sleeps and this batch may
         not wake it, or what has to be known cannot be read now; nothing was wrong with the line
spent    429: a budget of its key, or the fleet's, for the day or the month
refused  401: the pass is not good, or the owner's key is none any more
"""

ROOM = "x-batch-room"
"""The header that tells how many lines of this batch the tier takes at once now; at least one, which then waits."""

WAITED = "x-batch-waited"
"""The header that tells how many seconds a line has waited at the gateway for its turn, in which nothing was done for
it: what is written down of its time begins after them."""


def new_pass(batch: str) -> str:
    """A new one, as lines show it: `Authorization: Bearer …`."""
    return f"{PREFIX}{batch}.{secrets.token_urlsafe(32)}"


def batch_of(shown: str) -> str | None:
    """The batch that a pass names, whether it is good or not; None where it is none."""
    found = _PASS.fullmatch(shown)
    return found[1] if found else None


@dataclass(frozen=True)
class BatchPass:
    """What is written down of a pass.

    Args:
        batch: whose lines it is for.
        owner: the key whose limits hold for them, as the batch's record has it; empty where there are no keys.
        proof: the hash of the pass.
        until: when it ends, unless it is written again.
        may_wake: its lines may wake a tier that is asleep.

    """

    batch: str
    owner: str
    proof: str
    until: datetime
    may_wake: bool = False

    @classmethod
    def of(cls, shown: str, owner: str, until: datetime, *, may_wake: bool = False) -> Self:
        """Of one that `new_pass` made.

        Raises:
            ValueError: it is none.

        """
        batch = batch_of(shown)
        if batch is None:
            raise ValueError("this is no pass of a batch")
        return cls(batch, owner, hash_of(shown), until, may_wake)

    def as_json(self) -> dict[str, Any]:
        return {
            "v": VERSION,
            "batch": self.batch,
            "owner": self.owner,
            "proof": self.proof,
            "until": isoformat(self.until),
            "may_wake": self.may_wake,
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Self:
        return cls(
            batch=str(document["batch"]),
            owner=str(document.get("owner", "")),
            proof=str(document["proof"]),
            until=parse_moment(document["until"]),
            may_wake=bool(document.get("may_wake")),
        )
