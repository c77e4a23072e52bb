"""Keys over HTTP, for administrators: list, make, change, rotate, revoke. A key that is made here is told this once.

Who makes it himself sends only its hash, as the command line does: then it never travels. Who asks twice for the same
gets the same. Keys of lines are listed as well; they are changed where the lines are.
"""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from fastapi import APIRouter, Response
from fastapi.responses import JSONResponse
from loguru import logger

from app.gateway.auth.keys import Caller, line_about
from app.gateway.auth.live_keys import LiveKeys
from app.gateway.catalog.shared_answer import SharedAnswer
from app.gateway.dashboard.key_entries import (
    KeyEntry,
    KeySettingsBody,
    KeysResponse,
    MadeKeyResponse,
    Name,
    NewKeyBody,
    RotateBody,
)
from app.gateway.event_loop.long_answers import json_in_thread, json_response, response_of
from app.gateway.ops.post_jobs import MayChange
from app.gateway.ops.schemas import Failure
from app.logs import request_of_lines
from jobs.access.audit import Audit
from jobs.access.keys.key_change import KeyChange
from jobs.access.keys.key_records import KeyRecord, KeySettings
from jobs.access.keys.key_store import KeyStore
from jobs.access.keys.key_words import KeyConflict, parse_name
from jobs.access.keys.proofs import hash_of, new_key, proof_of
from jobs.core.clock import Clock
from jobs.core.errors import Trouble
from jobs.store.patient_calls import Calls, PatientDict
from jobs.store.protocols import DictLike


@dataclass(frozen=True)
class KeyActs:
    """What administrators do with keys. Any thread may; all of it waits for the store.

    Args:
        keys: those that count now.
        facts: the ledger's dict.
        audit: where it is written down who did what.
        clock: the time.
        copied: has the copy of the keys brought up to date.

    """

    keys: LiveKeys
    facts: DictLike
    audit: Audit
    clock: Clock
    copied: Callable[[], object]

    def all(self) -> dict[str, Any]:
        """All keys, those of lines first, as the store has them now."""
        now = self.clock.now()
        found = self._store.all()
        ledger = sorted(found.records.values(), key=lambda each: (each.is_revoked, each.name))
        told = [*(line_about(key, now) for key in self.keys.of_lines), *(each.about(now) for each in ledger)]
        return {"keys": told, "problems": list(self.keys.problems())}

    def get(self, name: str) -> dict[str, Any]:
        """A key.

        Raises:
            NotFound: there is none of this name.

        """
        for key in self.keys.of_lines:
            if key.caller.name == name:
                return line_about(key, self.clock.now())
        return self._store.get(name).about(self.clock.now())

    def make(self, caller: Caller, name: str, proof: str, change: KeyChange, request: str) -> dict[str, Any]:
        self._refuse_line(name, "choose another name, or take the line out")
        settings = change.of(KeySettings())
        return self._done(
            caller, "key-new", name, request, lambda: self._store.make(name, proof, settings, by=caller.name)
        )

    def change(self, caller: Caller, name: str, change: KeyChange, request: str) -> dict[str, Any]:
        self._refuse_line(name)
        return self._done(caller, "key-set", name, request, lambda: self._store.change(name, change.of, by=caller.name))

    def rotate(self, caller: Caller, name: str, proof: str, overlap: timedelta, request: str) -> dict[str, Any]:
        self._refuse_line(name)
        return self._done(
            caller, "key-rotate", name, request, lambda: self._store.rotate(name, proof, overlap, by=caller.name)
        )

    def revoke(self, caller: Caller, name: str, request: str) -> dict[str, Any]:
        self._refuse_line(name)
        return self._done(caller, "key-revoke", name, request, lambda: self._store.revoke(name, by=caller.name))

    @property
    def _store(self) -> KeyStore:
        return KeyStore(PatientDict(self.facts, Calls(self.clock)), self.clock)

    def _refuse_line(
        self, name: str, hint: str = "change that line; one of a secret counts once it is deployed"
    ) -> None:
        parse_name(name)
        if any(key.caller.name == name for key in self.keys.of_lines):
            raise KeyConflict(f"key {name!r} stands on a line of the keys file or the secret", hint=hint)

    def _done(self, caller: Caller, act: str, name: str, request: str, do: Callable[[], KeyRecord]) -> dict[str, Any]:
        with self.audit.act(who=caller.name, request=request, act=act, subject=name):
            record = do()
        self.keys.refresh()
        try:
            self.copied()
        except Trouble as trouble:  # the store has it; the night copies it at the latest
            logger.warning("the copy of the keys is not brought up to date now: {}", trouble)
        return record.about(self.clock.now())


def _proof(hash: str | None, public_key: str | None) -> tuple[str | None, str]:  # noqa: A002 - as its field
    """A key that is made here, if none is named; and what proves it."""
    if hash is not None and public_key is not None:
        raise KeyConflict("a key has one proof, and here are two", hint="send `hash` or `public_key`, or neither")
    if public_key is not None:
        return None, proof_of(public_key)
    if hash is not None:
        return None, hash
    key = new_key()
    return key, hash_of(key)


_SECRET = {"cache-control": "no-store"}


def router(acts: KeyActs, changed: Callable[[], object]) -> APIRouter:
    """
    Args:
        acts: what is done.
        changed: called in the event loop when something was.
    """
    conflict = {"model": Failure, "description": "This does not go with what is there"}
    api = APIRouter(tags=["keys"], prefix="/keys", responses={409: conflict})

    listed = SharedAnswer(lambda: json_in_thread(acts.all))  # one for all who look, as the page does
    count = 0

    async def done(act: Callable[..., Mapping[str, Any]], *args: object) -> Mapping[str, Any]:
        nonlocal count
        try:
            return await asyncio.to_thread(act, *args)
        finally:
            count += 1  # who did it is shown it
            changed()

    def made(record: Mapping[str, Any], key: str | None, status: int) -> JSONResponse:
        return JSONResponse({"key": key, "entry": record}, status, _SECRET)

    @api.get("", response_model=KeysResponse)
    async def list_keys(caller: MayChange) -> Response:
        """List all keys: what each may, until when, who made it. None of them is shown itself."""
        caller.need_model(None)
        return response_of(await listed(count))

    @api.get("/{name}", response_model=KeyEntry)
    async def show_key(name: Name, caller: MayChange) -> Response:
        """Tell what a key may."""
        caller.need_model(None)
        return await json_response(acts.get, name)

    @api.post("", status_code=201, response_model=MadeKeyResponse)
    async def make_key(body: NewKeyBody, caller: MayChange) -> Response:
        """Make a key. It is told this once: only its hash is kept."""
        caller.need_model(None)
        key, proof = _proof(body.hash, body.public_key)
        change = body.change(acts.clock.now())
        request = request_of_lines.get()
        return made(await done(acts.make, caller, body.name, proof, change, request), key, 201)

    @api.patch("/{name}", response_model=KeyEntry)
    async def change_key(name: Name, body: KeySettingsBody, caller: MayChange) -> Response:
        """Change what a key may, or until when: it counts everywhere within ten seconds."""
        caller.need_model(None)
        change = body.change(acts.clock.now())
        return JSONResponse(await done(acts.change, caller, name, change, request_of_lines.get()))

    @api.post("/{name}/rotate", response_model=MadeKeyResponse)
    async def rotate_key(name: Name, body: RotateBody, caller: MayChange) -> Response:
        """Have another key in place of this one. Both are good for as long as they overlap."""
        caller.need_model(None)
        key, proof = _proof(body.hash, body.public_key)
        overlap = timedelta(seconds=body.overlap_seconds)
        request = request_of_lines.get()
        return made(await done(acts.rotate, caller, name, proof, overlap, request), key, 200)

    @api.delete("/{name}", response_model=KeyEntry)
    async def revoke_key(name: Name, caller: MayChange) -> Response:
        """Take a key back: refused everywhere within ten seconds, and what it has under way ends within thirty."""
        caller.need_model(None)
        return JSONResponse(await done(acts.revoke, caller, name, request_of_lines.get()))

    return api
