"""One version of a key, as it is kept and as it is told: whose it is, what proves it, what it may, who made it. Pure.

The key itself is nowhere, only what proves it. Whatever cannot be understood makes no key wider: then it is none.
"""

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Literal, Self

from jobs.access.keys.key_words import CHAT, parse_expiry, parse_patterns, parse_scopes
from jobs.access.keys.proofs import SIGNER, fingerprint, is_proof
from jobs.access.limits import NO_LIMITS, Limits
from jobs.core import foreign
from jobs.core.clock import isoformat
from jobs.core.errors import BadRequest
from jobs.store import keys

VERSION = 1

REVOKED_FOR = timedelta(days=90)
"""For so long a revoked key is remembered. No copy of the keys is behind by as much."""

State = Literal["active", "expired", "revoked"]


@dataclass(frozen=True)
class KeyProof:
    """What proves a key, and until when: for ever, but where another one has taken its place."""

    text: str
    until: datetime | None = None

    @property
    def is_signer(self) -> bool:
        """Whether it is a public key, which proves a signature, and not a hash of what is sent."""
        return self.text.startswith(SIGNER)

    def is_good(self, now: datetime) -> bool:
        return self.until is None or now < self.until


@dataclass(frozen=True)
class KeySettings:
    """What somebody decides about a key."""

    scopes: tuple[str, ...] = (CHAT,)
    models: tuple[str, ...] = ()
    limits: Limits = NO_LIMITS
    expires: datetime | None = None


@dataclass(frozen=True)
class KeyRecord:
    """One version of a key.

    Args:
        name: whose it is.
        n: which version.
        token: of whoever wrote it, who knows by that whether it was him.
        proofs: the newest first.
        settings: what it may, and until when.
        made_by: the name of a key, or a user of this machine.
        changed_by: who wrote this version.
        revoked_by: who took it back; empty where nobody did.

    """

    name: str
    n: int
    token: str = field(compare=False)
    proofs: tuple[KeyProof, ...]
    settings: KeySettings
    made_by: str
    made_at: datetime
    changed_by: str
    changed_at: datetime
    revoked_by: str = ""
    revoked_at: datetime | None = None

    @property
    def is_revoked(self) -> bool:
        return self.revoked_at is not None

    def state(self, now: datetime) -> State:
        if self.is_revoked:
            return "revoked"
        return "expired" if self.settings.expires is not None and self.settings.expires <= now else "active"

    def is_forgotten(self, now: datetime) -> bool:
        """Whether it was revoked so long ago that nobody needs to know."""
        return self.revoked_at is not None and now - self.revoked_at > REVOKED_FOR

    @property
    def key(self) -> str:
        return keys.key(self.name, self.n)

    def as_json(self) -> dict[str, Any]:
        """As it is kept."""
        told = self.settings
        return {
            "v": VERSION,
            "name": self.name,
            "token": self.token,
            "proofs": [{"proof": each.text, "until": _moment(each.until)} for each in self.proofs],
            "scopes": list(told.scopes),
            "models": list(told.models),
            "limits": told.limits.options(),
            "expires": _moment(told.expires),
            "made_by": self.made_by,
            "made_at": isoformat(self.made_at),
            "changed_by": self.changed_by,
            "changed_at": isoformat(self.changed_at),
            "revoked_by": self.revoked_by,
            "revoked_at": _moment(self.revoked_at),
        }

    @classmethod
    def from_json(cls, name: str, n: int, document: Any) -> Self:
        """Read what is kept. Whatever is not understood makes no key wider: then it is none.

        Raises:
            BadRequest: it was written by a later version, or by nobody of ours.

        """
        found = foreign.fields(document)
        if found.get("v") != VERSION or found.get("name") != name:
            raise BadRequest(f"key {name!r} was written by a later version, or is damaged")
        proofs = tuple(
            KeyProof(text, _parsed(each.get("until")))
            for each in map(foreign.fields, foreign.items(found.get("proofs")))
            if is_proof(text := foreign.text(each.get("proof")))
        )
        patterns = foreign.texts(found.get("models"))
        limits = {str(word): foreign.text(value) for word, value in foreign.fields(found.get("limits")).items()}
        made, changed = (_parsed(found.get(word)) for word in ("made_at", "changed_at"))
        if made is None or changed is None or len(patterns) != len(foreign.items(found.get("models"))):
            raise BadRequest(f"key {name!r} is damaged")
        return cls(
            name,
            n,
            foreign.text(found.get("token")),
            proofs,
            KeySettings(
                parse_scopes(map(str, foreign.items(found.get("scopes")))),
                parse_patterns(",".join(patterns)) if patterns else (),
                Limits.parse(limits),
                _parsed(found.get("expires")),
            ),
            foreign.text(found.get("made_by")),
            made,
            foreign.text(found.get("changed_by")),
            changed,
            foreign.text(found.get("revoked_by")),
            _parsed(found.get("revoked_at")),
        )

    def about(self, now: datetime) -> dict[str, Any]:
        """What people and programs are told of it: nothing that could be tried out."""
        told = self.as_json()
        for word in ("v", "token", "proofs"):
            del told[word]
        good = [each for each in self.proofs if each.is_good(now) and not self.is_revoked]
        return {
            **told,
            "state": self.state(now),
            "source": "ledger",
            "version": self.n,
            "proofs": [proof_about(each.text, each.until) for each in good],
        }


def proof_about(text: str, until: datetime | None = None) -> dict[str, Any]:
    """What is told of a proof: which kind, and what tells it from others."""
    kind = "ssh-ed25519" if text.startswith(SIGNER) else "key"
    return {"kind": kind, "fingerprint": fingerprint(text), "until": _moment(until)}


def _moment(at: datetime | None) -> str | None:
    return None if at is None else isoformat(at)


def _parsed(text: Any) -> datetime | None:
    """The moment that is kept here.

    Raises:
        BadRequest: it is none, so nobody knows when it would be.

    """
    return None if text is None else parse_expiry(foreign.text(text))
