"""What Ollama's own command signs, checked against signatures made as its source makes them."""

import base64
import struct
from datetime import UTC, datetime, timedelta

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from app.gateway.auth.keys import Keys
from app.gateway.auth.signatures import SignedRequest, is_signature, signer
from jobs.access.keys.proofs import parse_public_key, proof_of
from jobs.core.errors import BadRequest, Unauthorized

NOW = datetime(2026, 11, 24, 3, tzinfo=UTC)
TS = str(int(NOW.timestamp()))
PRIVATE = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
OPENSSH = PRIVATE.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()
PUBLIC = OPENSSH.split()[1]


def signed(text: str, private: Ed25519PrivateKey = PRIVATE) -> str:
    """As ollama's auth.Sign does."""
    return f"{PUBLIC}:{base64.b64encode(private.sign(text.encode())).decode()}"


def asked(method: str, path: str, ts: str = TS) -> SignedRequest:
    return SignedRequest(method, path, f"ts={ts}")


def test_a_signed_request_tells_who_signed_it() -> None:
    """A signature over method, path and time names its public key."""
    authorization = signed(f"POST,/api/pull?ts={TS}")

    assert is_signature(authorization)
    assert signer(authorization, asked("POST", "/api/pull"), NOW) == PUBLIC


@pytest.mark.parametrize(
    ("method", "path", "ts"),
    [("GET", "/api/pull", TS), ("POST", "/api/delete", TS), ("POST", "/api/pull", str(int(TS) + 1)), ("POST", "", "")],
)
def test_another_request_cannot_use_it(method: str, path: str, ts: str) -> None:
    """A signature for one method, path and second lets nobody do anything else."""
    with pytest.raises(Unauthorized, match="does not fit"):
        signer(signed(f"POST,/api/pull?ts={TS}"), asked(method, path, ts), NOW)


def test_another_key_cannot_sign_for_this_one() -> None:
    """Showing somebody's public key takes his private one."""
    other = Ed25519PrivateKey.from_private_bytes(bytes(32))

    with pytest.raises(Unauthorized, match="does not fit"):
        signer(signed(f"GET,/?ts={TS}", other), asked("GET", "/"), NOW)


@pytest.mark.parametrize("apart", [timedelta(minutes=6), timedelta(minutes=-6)])
def test_old_signatures_are_worth_nothing(apart: timedelta) -> None:
    """A signature is good for five minutes, before and after, and the message says whose clock to look at."""
    with pytest.raises(Unauthorized, match="360 s from now") as refused:
        signer(signed(f"GET,/?ts={TS}"), asked("GET", "/"), NOW + apart)
    assert "clock" in str(refused.value.hint)


def test_a_moment_that_is_none_is_refused() -> None:
    """Even rightly signed, a time that is no number of seconds is refused."""
    with pytest.raises(Unauthorized, match="no moment"):
        signer(signed("GET,/?ts=²"), asked("GET", "/", "²"), NOW)


@given(st.text())
def test_noise_is_refused(text: str) -> None:
    """Whatever stands in the header, the answer is a refusal and no crash."""
    with pytest.raises(Unauthorized):
        signer(text, asked("GET", "/"), NOW)


def test_a_public_key_is_taken_as_the_file_holds_it() -> None:
    """The whole line of `id_ed25519.pub`, with or without a comment, and the bare base64 are the same key."""
    assert {parse_public_key(each) for each in (OPENSSH, f"{OPENSSH} me@home\n", PUBLIC)} == {PUBLIC}


RSA = base64.b64encode(struct.pack(">I", 7) + b"ssh-rsa" + bytes(40)).decode()


@pytest.mark.parametrize("text", ["", "ssh-ed25519", "ssh-ed25519 !!", f"ssh-rsa {RSA}", RSA, PUBLIC[:-8], "é"])
def test_other_keys_are_refused(text: str) -> None:
    """What is no ed25519 public key is refused, with where to find one."""
    with pytest.raises(BadRequest, match="no public key") as refused:
        parse_public_key(text)
    assert "id_ed25519.pub" in str(refused.value.hint)


def test_a_line_with_a_public_key_lets_its_owner_in() -> None:
    """Who signs with the key of a line is let in as that line says, and nobody else by it."""
    keys = Keys.parse(f"bob {proof_of(OPENSSH)} admin")
    authorization = signed(f"DELETE,/api/delete?ts={TS}").encode()

    caller = keys.identify([(b"authorization", authorization)], NOW, lambda: asked("DELETE", "/api/delete"))

    assert (caller.name, caller.scopes) == ("bob", frozenset({"admin"}))
    with pytest.raises(Unauthorized):
        keys.identify([(b"authorization", f"Bearer {PUBLIC}".encode())], NOW, lambda: asked("DELETE", "/api/delete"))


def test_an_unknown_key_that_signs_is_refused() -> None:
    """A signature that fits, by a key that no line names, opens nothing."""
    keys = Keys.parse(f"alice sha256:{'0' * 64}")

    with pytest.raises(Unauthorized, match="not known"):
        keys.identify([(b"authorization", signed(f"GET,/?ts={TS}").encode())], NOW, lambda: asked("GET", "/"))
