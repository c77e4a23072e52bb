"""API keys: who may ask, for what, and until when. All in memory; only hashes are ever here.

Those of the ledger (`live_keys`), and a line for each other, in a file or a secret; what follows a `#` is for people:

    NAME   PROOF              SCOPE…   models=PATTERN,…              LIMIT=…  expires=MOMENT
    alice  sha256:9f86…       chat     models=llama*,hf.co/*      rpm=60         expires=2027-01-01
    bob    ssh-ed25519:AAAA…  admin

A pattern without a slash fits models of Ollama's own library, `NAMESPACE/MODEL` those of its registry, `HOST/…` those
of that host; a `*` never turns one into the other. A word that means nothing is refused: no mistake makes a key wider.

The proof is the hash of a key; or the public key of Ollama's own command, which can send no key but signs (`signing`).
"""

import base64
import hashlib
import hmac
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from fnmatch import fnmatchcase
from typing import Any, Self

from app.gateway.auth import signatures
from app.gateway.auth.signatures import SignedRequest, is_signature, signer
from jobs.access.keys.key_records import proof_about
from jobs.access.keys.key_words import ADMIN, CHAT, SCOPES, is_name, parse_expiry, parse_patterns
from jobs.access.keys.proofs import PREFIX, SIGNER, hash_of, is_proof
from jobs.access.limits import NO_LIMITS, Limits
from jobs.access.limits import OPTIONS as LIMITS
from jobs.core.clock import isoformat
from jobs.core.errors import BadName, BadRequest, Forbidden, Unauthorized
from jobs.core.model_name import DEFAULT_HOST, DEFAULT_NAMESPACE, ModelName

VARIABLE = "OLLAMA_MODAL_KEYS"

_MAKE_ANEW = "make the line anew: `ollama-modal keys new NAME --line`"
_UNKNOWN = "this key is not known here"
_SEND_ONE = (
    "send `Authorization: Bearer KEY`, `x-api-key: KEY`, or the key as a password (`https://user:KEY@host`);"
    " `ollama-modal keys new NAME` makes one"
)


class UnknownKey(Unauthorized):
    """This key is not known here, or not yet."""


@dataclass(frozen=True)
class Caller:
    """Who asks, and what this key may do. `models` without a pattern allows all of them."""

    name: str
    scopes: frozenset[str]
    models: tuple[str, ...] = ()
    limits: Limits = NO_LIMITS
    is_only: bool = field(default=False, compare=False)
    """It is the only key, so there is no other to leave a share to."""

    def may(self, scope: str) -> bool:
        return scope in self.scopes

    def need(self, *scopes: str) -> None:
        """Insist on one of these scopes.

        Raises:
            Forbidden: the key has none of them.

        """
        if not self.scopes.intersection(scopes):
            has = " and ".join(sorted(self.scopes))
            wanted = " or ".join(scopes)
            raise Forbidden(
                f"key {self.name!r} has the scope {has}; this needs {wanted}",
                hint=f"ask with another key: `ollama-modal keys new NAME --scope {scopes[0]}` makes one",
            )

    def may_use(self, name: ModelName) -> bool:
        """Whether a pattern of this key fits the name, as people type it or in full, in any case."""
        if not self.models:
            return True
        folded = name.folded()
        return any(fits(pattern, folded) for pattern in self.models)

    def may_name(self, text: str) -> bool:
        """Whether this key may be told of what a record names: a model, or nothing; what is no name it may not."""
        if not self.models or not text:
            return True
        try:
            return self.may_use(ModelName.parse(text))
        except BadName:
            return False

    def may_see(self, name: ModelName | None) -> bool:
        """Whether this key may be told of this model; None stands for all of them."""
        return not self.models or (name is not None and self.may_use(name))

    def need_model(self, name: ModelName | None, *, asked_as: ModelName | None = None) -> None:
        """Insist on being allowed this model; None stands for all of them.

        Args:
            name: the model.
            asked_as: how it was asked for, where that is another name: a key is told of nothing else.

        Raises:
            Forbidden: no pattern of the key fits.

        """
        if not self.may_see(name):
            what = repr(str(asked_as or name)) if name is not None else "all models at once"
            if asked_as is not None and self.may_use(asked_as):
                what = f"the model that {what} stands for"
            raise Forbidden(f"key {self.name!r} may not use {what}", hint=f"it may use {', '.join(self.models)}")


def fits(pattern: str, name: ModelName) -> bool:
    """Whether a pattern fits a name; both in small letters.

    The first part decides what it is about, as in an address: with a dot, a colon or by the name `localhost` it is a
    host, and so it is where three parts are. So `llama*/*` fits nothing of a host with the name `llama.example`.
    """
    model = f"{name.model}:{name.tag}"
    first, *more = pattern.split("/")
    if not more:
        return (name.host, name.namespace) == (DEFAULT_HOST, DEFAULT_NAMESPACE) and fnmatchcase(model, first)
    if len(more) == 2:
        parts = (name.host, name.namespace, model)
        return all(map(fnmatchcase, parts, (first, *more)))
    if first == "localhost" or "." in first or ":" in first:
        return fnmatchcase(name.host, first) and fnmatchcase(f"{name.namespace}/{model}", more[0])
    return name.host == DEFAULT_HOST and fnmatchcase(name.namespace, first) and fnmatchcase(model, more[0])


ANYONE = Caller("anyone", frozenset(SCOPES), is_only=True)
"""Who asks where no keys are configured: loopback of one machine, and nowhere else."""


@dataclass(frozen=True)
class BatchLine:
    """What a request is that sends a line of a batch, by the batch's pass.

    Args:
        batch: whose.
        owner: of the batch; empty where that has no key.
        may_wake: it may wake a tier that is asleep.

    """

    batch: str
    owner: str
    may_wake: bool


@dataclass(frozen=True)
class Key:
    """A line: whose key it is, and what proves it."""

    caller: Caller
    proof: str
    expires: datetime | None = None
    is_of_ledger: bool = False
    """So it has to be read again and again; a line is what it is."""
    revoked_at: datetime | None = None
    batch_line: BatchLine | None = None
    """Where what was shown is the pass of a batch: in place of the key of its owner, whose limits hold."""

    @property
    def is_shown_again(self) -> bool:
        """Whether what shows it is good for more than one request, which a signature is not, and a pass may not be."""
        return self.batch_line is None and not self.proof.startswith(SIGNER)

    def is_good(self, now: datetime) -> bool:
        """Whether it has neither expired nor was revoked."""
        return self.revoked_at is None and (self.expires is None or now < self.expires)

    def is_over(self, now: datetime) -> bool:
        """Whether it is good no more; `caller_at` says why."""
        return self.revoked_at is not None or (self.expires is not None and self.expires <= now)

    def caller_at(self, now: datetime) -> Caller:
        """Whose it is.

        Raises:
            Unauthorized: it has expired, or was revoked.

        """
        if self.revoked_at is not None:
            raise Unauthorized(
                f"key {self.caller.name!r} was revoked at {isoformat(self.revoked_at)}", hint="ask for another one"
            )
        if self.expires is not None and self.expires <= now:
            raise Unauthorized(
                f"key {self.caller.name!r} expired at {isoformat(self.expires)}",
                hint="make another: `ollama-modal keys new NAME --expires …`",
            )
        return self.caller

    @classmethod
    def parse(cls, line: str) -> Self:
        """Read a line.

        Raises:
            BadRequest: it is none; the message shows names and options, never a hash or what stands in its place.

        """
        if PREFIX in line:
            raise BadRequest("it holds a key itself, and only its hash belongs here", hint=_MAKE_ANEW)
        name, *rest = line.split()
        if not is_name(name):
            raise BadRequest("its first word is no name of a key", hint=f"letters, digits, `_`, `.`, `-`; {_MAKE_ANEW}")
        if not rest or not is_proof(rest[0]):
            raise BadRequest(
                "its second word is no hash and no public key",
                hint=f"sha256: and 64 hex digits, or {SIGNER} and its base64; {_MAKE_ANEW}",
            )
        scopes = [word for word in rest[1:] if "=" not in word]
        options = _options(name, [word for word in rest[1:] if "=" in word])
        if wrong := [word for word in scopes if word not in SCOPES]:
            raise BadRequest(
                f"word {rest.index(wrong[0], 1) + 2} of key {name!r} is neither a scope nor an option",
                hint=f"scopes are {' and '.join(SCOPES)}, options {', '.join(f'{each}=' for each in _READERS)}",
            )
        caller = Caller(
            name,
            frozenset(scopes or [CHAT]),
            parse_patterns(options["models"]) if "models" in options else (),
            Limits.parse({name: value for name, value in options.items() if name in LIMITS}),
        )
        return cls(caller, rest[0], parse_expiry(options["expires"]) if "expires" in options else None)

    def __str__(self) -> str:
        caller = self.caller
        words = [caller.name, self.proof, *sorted(caller.scopes, key=SCOPES.index)]
        words += [f"models={','.join(caller.models)}"] if caller.models else []
        words += [f"{name}={value}" for name, value in caller.limits.options().items()]
        words += [f"expires={isoformat(self.expires)}"] if self.expires is not None else []
        return " ".join(words)


def line_about(key: Key, now: datetime) -> dict[str, Any]:
    """What is told of a key of a line, as of those of the ledger."""
    caller = key.caller
    is_over = key.expires is not None and key.expires <= now
    return {
        "name": caller.name,
        "source": "lines",
        "state": "expired" if is_over else "active",
        "scopes": [scope for scope in SCOPES if scope in caller.scopes],
        "models": list(caller.models),
        "limits": caller.limits.options(),
        "expires": isoformat(key.expires) if key.expires else None,
        "proofs": [proof_about(key.proof)],
        "version": 0,
        **dict.fromkeys(("made_by", "changed_by", "revoked_by"), ""),
        **dict.fromkeys(("made_at", "changed_at", "revoked_at")),
    }


_ANYONES = Key(ANYONE, "")
"""In place of a key, where none are configured."""

_NOBODYS = Key(Caller("", frozenset({CHAT})), "")
"""Of a batch that was posted without a key, by whoever runs this."""


_READERS = ("models", *LIMITS, "expires")


def _options(name: str, words: list[str]) -> Mapping[str, str]:
    options: dict[str, str] = {}
    for word in words:
        option, _, value = word.partition("=")
        if option not in _READERS or option in options:
            what = "is there twice" if option in options else "is none that we know"
            shown = repr(option) if option in _READERS else "an option"
            raise BadRequest(f"{shown} of key {name!r} {what}", hint=f"options are {', '.join(_READERS)}, once each")
        options[option] = value
    return options


def _limits(caller: Caller, defaults: Limits) -> Limits:
    """What a key may take; the one `NO_LIMITS` where that is anything, so that no request looks closer."""
    limits = caller.limits if caller.may(ADMIN) else caller.limits.or_else(defaults)
    return NO_LIMITS if limits == NO_LIMITS else limits


class Keys:
    """All keys of a gateway, as they are known at one moment.

    Args:
        keys: those that are good, and those of which it is told that they were revoked.
        is_open: without any everybody is let in.
        is_of_ledger: whether it is so may be another matter in a moment.
        defaults: what a key may take that says nothing of it, unless it is an admin's.

    """

    def __init__(
        self,
        keys: Iterable[Key] = (),
        *,
        is_open: bool = True,
        is_of_ledger: bool = False,
        defaults: Limits = NO_LIMITS,
    ) -> None:
        given = tuple(keys)
        self.names = tuple(dict.fromkeys(key.caller.name for key in given if key.revoked_at is None)) or (ANYONE.name,)
        """For labels and lists: nothing here is secret."""
        self.count = len(self.names)
        self.is_open = is_open and not given
        """Whether everybody is let in."""
        is_only = self.count == 1
        self._keys = tuple(
            replace(key, caller=replace(key.caller, is_only=is_only, limits=_limits(key.caller, defaults)))
            for key in given
        )
        self._by_proof = {key.proof: key for key in self._keys}
        self._anyones = replace(_ANYONES, is_of_ledger=is_of_ledger)
        self._takes_signatures = any(key.proof.startswith(SIGNER) for key in given)
        if self._takes_signatures:
            signatures.prepare()
        #: The key by the hash of the headers that showed it, so that each is read once: of keys that are known alone.
        #: Any thread may put in and take out: each is one step, and what is not there is read anew.
        self._seen: dict[bytes, Key] = {}

    @classmethod
    def parse(cls, text: str, source: str = VARIABLE) -> Self:
        """Read all lines of one text."""
        return cls.gather({source: text})

    @classmethod
    def gather(cls, texts: Mapping[str, str]) -> Self:
        """Read all lines of several texts, by where they come from.

        Raises:
            BadRequest: a line is wrong; it names the source, the line and the remedy, never a secret.

        """
        keys: list[Key] = []
        for source, text in texts.items():
            for number, raw in enumerate(text.splitlines(), 1):
                line = raw.partition("#")[0].strip()
                if not line:
                    continue
                try:
                    key = Key.parse(line)
                    _refuse_doubles(key, keys)
                except BadRequest as error:
                    raise BadRequest(f"line {number} of {source}: {error}", hint=error.hint) from error
                keys.append(key)
        return cls(keys)

    @property
    def is_empty(self) -> bool:
        return not self._keys

    @property
    def all(self) -> tuple[Key, ...]:
        return self._keys

    def named(self, name: str) -> Caller | None:
        """Whose key has this name; None where it is of nobody, or revoked."""
        return next((key.caller for key in self._keys if key.caller.name == name and key.revoked_at is None), None)

    def of_owner(self, name: str, now: datetime) -> Key | None:
        """A key of this name that is good; where everybody is let in, or nobody's is meant, that of no line."""
        if self.is_open:
            return self._anyones
        if not name:
            return _NOBODYS
        return next((key for key in self._keys if key.caller.name == name and key.is_good(now)), None)

    def of_proof(self, proof: str) -> Key | None:
        """The key that this proves."""
        return self._by_proof.get(proof)

    def identify(
        self,
        headers: Iterable[tuple[bytes, bytes]],
        now: datetime,
        signed: Callable[[], SignedRequest] | None = None,
    ) -> Caller:
        """Who sends these headers, with this request.

        Raises:
            Unauthorized: no key, one that is not known, or one that has expired; or a signature that does not fit.

        """
        return self.key_of(headers, now, signed).caller_at(now)

    def key_of(
        self,
        headers: Iterable[tuple[bytes, bytes]],
        now: datetime,
        signed: Callable[[], SignedRequest] | None = None,
    ) -> Key:
        """The key that these headers show, whether it has expired or not.

        Raises:
            Unauthorized: no key, or one that is not known; or a signature that does not fit.

        """
        if self.is_open:
            return self._anyones
        shown = [(name.lower(), value) for name, value in headers if name.lower() in _HEADERS]
        sent = hashlib.sha256(repr(shown).encode()).digest()  # in place of what was sent, which is kept nowhere
        known = self._seen.get(sent)
        if known is None:
            known = self._find(_proof(shown, now, signed, takes_signatures=self._takes_signatures))
            if known.is_shown_again:
                if len(self._seen) >= _MOST_SEEN:
                    self._seen.clear()
                self._seen[sent] = known
        return known

    def _find(self, shown: str) -> Key:
        known: Key | None = None
        for key in self._keys:  # all of them, so that the time tells nothing
            if hmac.compare_digest(key.proof, shown):
                known = key
        if known is None:
            raise UnknownKey(_UNKNOWN, hint=_SEND_ONE)
        return known


_HEADERS = frozenset({b"authorization", b"x-api-key"})
"""What a key may come in."""

_MOST_SEEN = 1024
"""Ways of showing a key that are remembered; a client keeps to one."""


def _refuse_doubles(key: Key, others: Iterable[Key]) -> None:
    for other in others:
        if other.caller.name == key.caller.name:
            raise BadRequest(f"there is a key {key.caller.name!r} before", hint="leave one of them out, or rename it")
        if other.proof == key.proof:
            raise BadRequest(
                f"key {key.caller.name!r} is key {other.caller.name!r} again", hint="each name has a key of its own"
            )


def _proof(
    sent: Sequence[tuple[bytes, bytes]],
    now: datetime,
    signed: Callable[[], SignedRequest] | None,
    *,
    takes_signatures: bool,
) -> str:
    """What came along, as lines have it: of a signature, or of a key: a bearer's, else `x-api-key`, else of Basic."""
    if len({name for name, _ in sent}) != len(sent):
        raise Unauthorized("a header with a key came twice", hint="send it once")
    values = {name: value.strip().decode("utf-8", "surrogateescape") for name, value in sent}
    authorization = values.get(b"authorization", "")
    if signed is not None and is_signature(authorization):
        if not takes_signatures:
            raise UnknownKey(_UNKNOWN, hint=_SEND_ONE)
        return SIGNER + signer(authorization, signed(), now)
    scheme, _, credentials = authorization.partition(" ")
    key = credentials.strip() if scheme.lower() == "bearer" else ""
    key = key or values.get(b"x-api-key", "")
    key = key or (_password(credentials) if scheme.lower() == "basic" else "")
    if not key:
        raise Unauthorized("no key was sent", hint=_SEND_ONE)
    return hash_of(key)


def _password(credentials: str) -> str:
    """The key in Basic credentials: the password, or the user where there is none, as in `https://KEY@host`.

    Clients make them of `https://user:KEY@host`. No answer asks for them, so a browser never keeps any for other pages.
    """
    try:
        text = base64.b64decode(credentials.strip(), validate=True).decode("utf-8", "surrogateescape")
    except ValueError:
        return ""
    user, colon, password = text.partition(":")
    return password or (user if colon else "")
