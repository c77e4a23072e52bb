"""Keys as facts: each version of a key is a whole record, written once; of those that are there the highest counts.

    key/<name>/<n>     version n; whoever loses the race for it reads again, and applies his change to what is there

A key that is revoked stays as a version that says so, and a key that is made under its name later is the next version.
So what a lost store gives back can be put together of any copies: of each key the highest version counts, and a copy
that is behind revives nothing that another one knows to be revoked. The key itself is nowhere, only what proves it.
"""

import re
import secrets
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

from jobs.access.keys.key_records import KeyProof, KeyRecord, KeySettings
from jobs.access.keys.key_words import KeyConflict, is_name
from jobs.core import foreign
from jobs.core.clock import Clock
from jobs.core.errors import BadRequest, NotFound, StoreUnavailable
from jobs.store import keys
from jobs.store.protocols import DictLike, ReadableDict

MOST = 1_000
"""Keys that are good for something, at once: each gateway reads all of them every few seconds."""

SUPERSEDED_FOR = timedelta(days=1)
"""For so long a version stays when there is a later one: a change that began before that ended long ago."""

LONGEST_OVERLAP = timedelta(days=30)
"""For so long at most the old key is good beside the new one."""

_TRIES = 20
"""Races that one change may lose."""

_LASTS = timedelta(minutes=1)
"""A change that took longer from its read to its write reads again."""

_NUMBER = re.compile(r"[1-9]\d{0,9}", re.ASCII)


@dataclass(frozen=True)
class KeysFound:
    """What a store or a copy has: of each key the highest version. One that cannot be read is none, and is told."""

    records: Mapping[str, KeyRecord] = field(default_factory=dict)
    unreadable: Mapping[str, tuple[int, Any]] = field(default_factory=dict)
    """By the name, the version that counts and what stands there, which makes no sense here."""
    older: tuple[str, ...] = ()
    """The keys of the entries that later ones stand before."""

    @property
    def numbers(self) -> dict[str, int]:
        """Of each name, which version counts."""
        return {name: each.n for name, each in self.records.items()} | {n: v for n, (v, _) in self.unreadable.items()}

    @property
    def is_empty(self) -> bool:
        """Whether there never was a key, as far as this tells."""
        return not self.records and not self.unreadable

    def joined(self, others: "KeysFound") -> "KeysFound":
        """Of each key the higher version of both: in whatever order copies are put together, it is the same."""
        records, unreadable, numbers = dict(self.records), dict(self.unreadable), self.numbers
        for name, n in others.numbers.items():
            if n <= numbers.get(name, 0):
                continue
            records.pop(name, None)
            unreadable.pop(name, None)
            if name in others.unreadable:
                unreadable[name] = others.unreadable[name]
            else:
                records[name] = others.records[name]
        return KeysFound(records, unreadable, self.older)

    def remembered(self, now: datetime) -> "KeysFound":
        """Without what nobody needs to know any more."""
        return replace(self, records={name: each for name, each in self.records.items() if not each.is_forgotten(now)})

    def entries(self) -> dict[str, Any]:
        """As a store keeps them: what cannot be read here as it was found."""
        told = {each.key: each.as_json() for each in self.records.values()}
        return told | {keys.key(name, n): value for name, (n, value) in self.unreadable.items()}

    def beyond(self, others: "KeysFound", now: datetime) -> dict[str, Any]:
        """The entries of what is known here and not there, but for what nobody needs to know any more."""
        here, there = self.remembered(now), others.numbers
        lost = {keys.key(name, n) for name, n in here.numbers.items() if n > there.get(name, 0)}
        return {key: value for key, value in here.entries().items() if key in lost}


def found_in(entries: Iterable[tuple[str, Any]]) -> KeysFound:
    """The keys among these entries."""
    highest: dict[str, tuple[int, Any]] = {}
    older = []
    for key, value in entries:
        name, _, number = key.removeprefix(keys.KEY).rpartition("/")
        if not key.startswith(keys.KEY) or not is_name(name) or not _NUMBER.fullmatch(number):
            continue
        n, before = int(number), highest.get(name)
        if before is not None:
            older.append(keys.key(name, min(n, before[0])))
        if before is None or n > before[0]:
            highest[name] = (n, value)
    records, unreadable = {}, {}
    for name, (n, value) in highest.items():
        try:
            records[name] = KeyRecord.from_json(name, n, value)
        except BadRequest:
            unreadable[name] = n, value
    return KeysFound(records, unreadable, tuple(older))


class KeyStore:
    """Makes and changes keys. Any thread may, in any process: of two that change one key, both changes count.

    Where the store fails meanwhile, asking once more for the same does no harm, and tells whether it was done.

    Args:
        facts: the ledger's dict.
        clock: the time.

    """

    def __init__(self, facts: DictLike, clock: Clock) -> None:
        self._facts = facts
        self._clock = clock

    def all(self) -> KeysFound:
        """All keys, by one listing."""
        return read_keys(self._facts)

    def get(self, name: str) -> KeyRecord:
        """A key.

        Raises:
            NotFound: there is none of this name.
            KeyConflict: a later version of the product wrote it.

        """
        return _need(self.all(), name)

    def make(self, name: str, proof: str, settings: KeySettings, *, by: str) -> KeyRecord:
        """Make a key; the one that is there when it is this very one.

        Raises:
            KeyConflict: there is a key of that name, or with that proof, or there are as many as there may be.

        """

        def made(found: KeysFound) -> KeyRecord:
            before = _readable(found, name)
            if before is not None and not before.is_revoked:
                if before.proofs[:1] == (KeyProof(proof),) and before.settings == settings:
                    return before
                raise KeyConflict(
                    f"there is a key {name!r} already",
                    hint=f"what it may is changed by `ollama-modal keys set`; another one takes its place by"
                    f" `ollama-modal keys rotate {name}`",
                )
            if sum(not each.is_revoked for each in found.records.values()) >= MOST:
                raise KeyConflict(f"there are {MOST} keys, and no more than that", hint="revoke some that nobody uses")
            _refuse_known(found, name, proof)
            now = self._clock.now()
            n = before.n + 1 if before is not None else 1
            return KeyRecord(name, n, _token(), (KeyProof(proof),), settings, by, now, by, now)

        return self._written(name, made)

    def change(self, name: str, change: Callable[[KeySettings], KeySettings], *, by: str) -> KeyRecord:
        """Change what a key may, or until when.

        Raises:
            NotFound: there is none of this name.
            KeyConflict: it is revoked.

        """

        def changed(found: KeysFound) -> KeyRecord:
            before = _need_active(found, name)
            settings = change(before.settings)
            return before if settings == before.settings else self._next(before, by, settings=settings)

        return self._written(name, changed)

    def rotate(self, name: str, proof: str, overlap: timedelta, *, by: str) -> KeyRecord:
        """Have another key in place of this one; the old one is good for as long as both overlap.

        Raises:
            BadRequest: they would overlap for too long.
            NotFound: there is none of this name.
            KeyConflict: it is revoked, or the proof is another key's.

        """
        need_overlap(overlap)

        def rotated(found: KeysFound) -> KeyRecord:
            before = _need_active(found, name)
            if before.proofs[:1] == (KeyProof(proof),):
                return before
            _refuse_known(found, name, proof)
            now = self._clock.now()
            ends = now + overlap
            old = (replace(each, until=min(each.until or ends, ends)) for each in before.proofs if each.is_good(now))
            return self._next(before, by, proofs=(KeyProof(proof), *(each for each in old if each.is_good(now))))

        return self._written(name, rotated)

    def revoke(self, name: str, *, by: str) -> KeyRecord:
        """Take a key back; one that is revoked stays as it is.

        Raises:
            NotFound: there is none of this name.

        """

        def revoked(found: KeysFound) -> KeyRecord:
            before = _need(found, name)
            return before if before.is_revoked else self._next(before, by, revoked_by=by, revoked_at=self._clock.now())

        return self._written(name, revoked)

    def _next(self, before: KeyRecord, by: str, **changes: Any) -> KeyRecord:
        n, now = before.n + 1, self._clock.now()
        return replace(before, n=n, token=_token(), changed_by=by, changed_at=now, **changes)

    def _written(self, name: str, decide: Callable[[KeysFound], KeyRecord]) -> KeyRecord:
        """What was decided, once it is written; or what is there, where nothing is to be changed."""
        for _ in range(_TRIES):
            began = self._clock.monotonic()
            found = self.all()
            record = decide(found)
            if record.n == found.numbers.get(name):
                return record
            if self._clock.monotonic() - began > _LASTS.total_seconds():
                continue  # what was read is old: the version after it may have come and gone
            if self._facts.put(record.key, record.as_json(), skip_if_exists=True):
                return record
            there = self._facts.get(record.key)  # a put whose reply was lost is told of as if another had been first
            if foreign.fields(there).get("token") == record.token:
                return record
        raise StoreUnavailable(f"key {name!r} is changed by others again and again", hint="ask once more")


def need_overlap(overlap: timedelta) -> None:
    """Insist on a time that two keys may overlap for.

    Raises:
        BadRequest: it is too long, or none.

    """
    if not timedelta(0) <= overlap <= LONGEST_OVERLAP:
        raise BadRequest("old and new overlap for 0s to 30d", hint="as in --overlap 24h; with 0s the old one ends now")


def read_keys(facts: ReadableDict) -> KeysFound:
    """All keys that a store has, by one listing."""
    return found_in(facts.items(keys.KEY))


def restore(facts: DictLike, lost: Mapping[str, Any]) -> list[str]:
    """Put back what a store has lost; the names of the keys that it was. What is there and later stays."""
    put = [key for key, value in lost.items() if facts.put(key, value, skip_if_exists=True)]
    return [key.removeprefix(keys.KEY).rpartition("/")[0] for key in put]


def _token() -> str:
    return secrets.token_hex(8)


def _readable(found: KeysFound, name: str) -> KeyRecord | None:
    if name in found.unreadable:
        raise KeyConflict(
            f"key {name!r} cannot be read here: a later version wrote it",
            hint="ask with that version, or use another name",
        )
    return found.records.get(name)


def _need(found: KeysFound, name: str) -> KeyRecord:
    record = _readable(found, name)
    if record is None:
        raise NotFound(f"there is no key {name!r} in the ledger", hint="`ollama-modal keys list` shows them")
    return record


def _need_active(found: KeysFound, name: str) -> KeyRecord:
    record = _need(found, name)
    if record.is_revoked:
        raise KeyConflict(f"key {name!r} is revoked", hint=f"make it anew: `ollama-modal keys new {name}`")
    return record


def _refuse_known(found: KeysFound, name: str, proof: str) -> None:
    for each in found.records.values():
        if not each.is_revoked and any(known.text == proof for known in each.proofs):
            whose = "this key's already" if each.name == name else f"key {each.name!r}"
            raise KeyConflict(f"that proof is {whose}", hint="each name has a key of its own")
