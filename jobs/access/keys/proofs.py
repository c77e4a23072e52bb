"""What proves a key: the hash of one, or the public key of Ollama's own command, which sends none but signs. Pure.

A plain SHA-256 is enough, because a key is 256 random bits: nobody can try them out, which is what a slow hash is
against, and a slow one would cost each request more than the gateway does.
"""

import base64
import binascii
import hashlib
import re
import secrets
import struct

from jobs.core.errors import BadRequest
from jobs.core.sanitize import KEY_PREFIX

PREFIX = KEY_PREFIX
"""So that a key is recognised wherever it should not be: in a log, a commit, a screenshot."""

KIND = "ssh-ed25519"
SIGNER = f"{KIND}:"
"""What the proof of a public key begins with."""

_HASH = re.compile(r"sha256:[0-9a-f]{64}", re.ASCII)


def new_key() -> str:
    return PREFIX + secrets.token_urlsafe(32)


def hash_of(key: str) -> str:
    return f"sha256:{hashlib.sha256(key.encode('utf-8', 'surrogateescape')).hexdigest()}"


def proof_of(public_key: str) -> str:
    """How a public key of an Ollama is named.

    Raises:
        BadRequest: it is none.

    """
    return SIGNER + parse_public_key(public_key)


def is_proof(word: str) -> bool:
    """Whether this proves a key: a hash in small letters, or a public key in the one spelling that is compared."""
    if not word.startswith(SIGNER):
        return _HASH.fullmatch(word) is not None
    try:
        return word == proof_of(word.removeprefix(SIGNER))
    except BadRequest:
        return False


def fingerprint(proof: str) -> str:
    """Tells the proofs of a key apart, and nothing else of them."""
    return hashlib.sha256(proof.encode()).hexdigest()[:8]


def parse_public_key(text: str) -> str:
    """The public key of an `id_ed25519.pub`, in the one spelling that is compared: its base64.

    Raises:
        BadRequest: it is none.

    """
    words = text.split()
    blob = words[1] if len(words) > 1 and words[0] == KIND else words[0] if words else ""
    try:
        raw_public_key(blob)
    except ValueError as error:
        raise BadRequest(
            "this is no public key of Ollama's", hint=f"the text of ~/.ollama/id_ed25519.pub, which begins with {KIND}"
        ) from error
    return blob


def raw_public_key(blob: str) -> bytes:
    """The 32 bytes of the key in an SSH public key: two strings, each after its length.

    Raises:
        ValueError: it is of another kind, or nothing at all.

    """
    try:
        data = base64.b64decode(blob, validate=True)
    except binascii.Error as error:
        raise ValueError("no base64") from error
    head = struct.pack(">I", len(KIND)) + KIND.encode() + struct.pack(">I", 32)
    if not data.startswith(head) or len(data) != len(head) + 32:
        raise ValueError(f"no {KIND} key")
    return data[len(head) :]
