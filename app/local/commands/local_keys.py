"""The keys of this machine, for the commands: those of its ledger, and of the lines beside it."""

from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any

from app.gateway.auth.key_lines import KeyFile, texts_of
from app.gateway.auth.keys import VARIABLE, Key, line_about
from jobs.access.audit import Audit
from jobs.access.keys.key_change import KeyChange
from jobs.access.keys.key_copy import copy_at, keep_keys
from jobs.access.keys.key_records import KeyRecord, KeySettings
from jobs.access.keys.key_store import KeyStore, read_keys
from jobs.access.keys.key_words import parse_name
from jobs.cli.job_commands import who
from jobs.cli.output import say
from jobs.core.clock import Clock
from jobs.core.errors import NotFound, Refused, Trouble
from jobs.home.home import Home
from jobs.store.patient_calls import Calls, PatientShrinkingDict


class LocalKeys:
    """Those of this machine's ledger, and those of the lines beside it, which are changed in their file.

    Whoever may write this home may do all of it: what lets in over the network needs no key here.
    """

    def __init__(self, home: Home, environ: Mapping[str, str], clock: Clock) -> None:
        self._home = home
        self._environ = environ
        self._clock = clock

    def all(self) -> Mapping[str, Any]:
        now = self._clock.now()
        found = read_keys(self._home.read_facts())
        ledger = sorted(found.records.values(), key=lambda each: (each.is_revoked, each.name))
        names = {each.name for each in ledger if not each.is_revoked}
        lines = self._lines()
        problems = [f"key {name!r} cannot be read here: a later version wrote it" for name in sorted(found.unreadable)]
        problems += [
            f"key {each.caller.name!r} is in the ledger and on a line, and the line counts; rename one"
            for each in lines
            if each.caller.name in names
        ]
        return {
            "keys": [*(line_about(each, now) for each in lines), *(each.about(now) for each in ledger)],
            "problems": problems,
        }

    def get(self, name: str) -> Mapping[str, Any]:
        for told in self.all()["keys"]:
            if told["name"] == name:
                found: Mapping[str, Any] = told
                return found
        raise NotFound(f"there is no key {name!r}", hint="`ollama-modal keys list` shows them")

    def make(self, name: str, proof: str, change: KeyChange) -> Mapping[str, Any]:
        return self._done("key-new", name, lambda store, by: store.make(name, proof, change.of(KeySettings()), by=by))

    def change(self, name: str, change: KeyChange) -> Mapping[str, Any]:
        return self._done("key-set", name, lambda store, by: store.change(name, change.of, by=by))

    def rotate(self, name: str, proof: str, overlap: timedelta) -> Mapping[str, Any]:
        return self._done("key-rotate", name, lambda store, by: store.rotate(name, proof, overlap, by=by))

    def revoke(self, name: str) -> Mapping[str, Any]:
        return self._done("key-revoke", name, lambda store, by: store.revoke(name, by=by))

    def _done(self, act: str, name: str, do: Callable[[KeyStore, str], KeyRecord]) -> Mapping[str, Any]:
        parse_name(name)
        if any(each.caller.name == name for each in self._lines()):
            raise Refused(f"key {name!r} stands on a line of the keys file", hint=f"change it in {self._home.keys}")
        facts = self._home.facts()
        clock, by = self._clock, who()
        command = f"ollama-modal {act.replace('key-', 'keys ')}"
        with Audit(facts, clock).act(who=by, request=command, act=act, subject=name):
            record = do(KeyStore(PatientShrinkingDict(facts, Calls(clock)), clock), by)
        try:
            keep_keys(facts, copy_at(self._home.root), clock.now(), lambda: None)
        except Trouble as trouble:
            say(f"warning: the copy of the keys is not brought up to date now: {trouble}")
        facts.close()
        return record.about(clock.now())

    def _lines(self) -> tuple[Key, ...]:
        return KeyFile(self._home.keys, texts_of(self._environ, VARIABLE)).read().all
