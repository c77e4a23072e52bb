"""Keys: what a line may say, who is let in by which header, and how much one key may ask for."""

import base64
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.gateway.auth.fair_shares import share_of
from app.gateway.auth.keys import ANYONE, Caller, Key, Keys
from app.gateway.auth.rate_limits import RateLimits
from app.gateway.protocol.errors import body_of, headers_of, status_of
from app.local.commands.key_commands import scopes_of
from jobs.access.keys.key_words import ADMIN, CHAT
from jobs.access.keys.proofs import PREFIX, hash_of, new_key
from jobs.access.limits import Limits
from jobs.core.errors import (
    BadName,
    BadRequest,
    Bug,
    Forbidden,
    NetworkTrouble,
    NotFound,
    Stalled,
    TooManyRequests,
    Trouble,
    Unauthorized,
)
from jobs.core.model_name import ModelName
from jobs.testing.clock import HandClock
from tests.support.local_stack import Shell

NOW = datetime(2026, 9, 15, tzinfo=UTC)
KEY = PREFIX + "k" * 43  # fixed, because it is in the names of tests, which all workers must agree on
OTHER = PREFIX + "o" * 43
LINE = f"alice {hash_of(KEY)}"


def bearer(key: str) -> list[tuple[bytes, bytes]]:
    return [(b"authorization", f"Bearer {key}".encode())]


# -- lines -------------------------------------------------------------------------------------------------------------


def test_a_key_is_256_random_bits_with_a_prefix_that_is_recognised() -> None:
    """Two keys are never the same, and a scanner for secrets knows one when it sees it."""
    made = {new_key() for _ in range(10)}
    assert len(made) == 10
    assert {(key[: len(PREFIX)], len(key)) for key in made} == {(PREFIX, len(PREFIX) + 43)}


def test_a_line_without_words_is_a_key_for_chat() -> None:
    """A name and a hash are enough; such a key may chat with every model, as often as it likes, for ever."""
    (key,) = Keys.parse(LINE)._keys
    assert key == Key(Caller("alice", frozenset({CHAT})), hash_of(KEY))


def test_a_line_says_everything_and_reads_back_the_same() -> None:
    """What a line is parsed to is written as a line that means the same."""
    line = f"{LINE} chat admin models=llama*,hf.co/* rpm=60 concurrent=4 expires=2027-01-01"
    (key,) = Keys.parse(line)._keys
    assert key.caller == Caller("alice", frozenset({CHAT, ADMIN}), ("llama*", "hf.co/*"), Limits(60, None, 4))
    assert key.expires == datetime(2027, 1, 1, tzinfo=UTC)
    assert Key.parse(str(key)) == key


def test_comments_and_empty_lines_are_for_people() -> None:
    """What follows a `#` means nothing."""
    keys = Keys.parse(f"# the team\n\n{LINE}  # Alice, since May\n   \nbob {hash_of(OTHER)} admin\n")
    assert keys.names == ("alice", "bob")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("alice", "its second word is no hash"),
        ("alice sha256:abc", "its second word is no hash"),
        (f"{hash_of(KEY)} alice", "its first word is no name"),
        (f"{LINE} read", "word 3 of key 'alice' is neither a scope nor an option"),
        (f"{LINE} chat write", "word 4 of key 'alice'"),
        (f"{LINE} rpm=0", "rpm='0' is no number of requests"),
        (f"{LINE} rpm=-1", "rpm='-1'"),
        (f"{LINE} rpm=٣", "rpm='٣'"),
        (f"{LINE} concurrent=many", "concurrent='many'"),
        (f"{LINE} rpm=1 rpm=2", "'rpm' of key 'alice' is there twice"),
        (f"{LINE} colour=red", "an option of key 'alice' is none that we know"),
        (f"{LINE} expires=soon", "expires='soon' is no moment"),
        (f"{LINE} expires=", "expires='' is no moment"),
        (f"{LINE} expires=0001-01-01T00:00+23:59", "expires='0001-01-01T00:00+23:59' is no moment"),
        (f"{LINE} expires=9999-12-31T23:59-23:59", "expires='9999-12-31T23:59-23:59' is no moment"),
        (f"{LINE} rpm=", "rpm='' is no number of requests"),
        (f"{LINE} models=llama3.2,ev{{il", "models has a pattern that no name can fit: 'ev{il'"),
        (f"{LINE} models=a/b/c/d", "models has a pattern that no name can fit: 'a/b/c/d'"),
        (f"{LINE} models=", "models has an empty pattern"),
        (f"{LINE} models=,", "models has an empty pattern"),
        (f"{LINE} models=llama*,", "models has an empty pattern"),
        (f"{LINE} models=,llama*", "models has an empty pattern"),
        (f"{LINE} models=a,,b", "models has an empty pattern"),
        (f"{LINE} models=a models=b", "'models' of key 'alice' is there twice"),
        (f"{LINE} models", "word 3 of key 'alice' is neither a scope nor an option"),
        (f"{LINE} MODELS=llama*", "an option of key 'alice' is none that we know"),
        (f"{LINE} model=llama*", "an option of key 'alice' is none that we know"),
        (f"{LINE} models=llama* hf.co/*", "word 4 of key 'alice' is neither a scope nor an option"),
        (f"{LINE} scope=", "an option of key 'alice' is none that we know"),
        (f"{LINE} scope=admin", "an option of key 'alice' is none that we know"),
        (f"{LINE} chat,admin", "word 3 of key 'alice' is neither a scope nor an option"),
    ],
)
def test_a_wrong_line_is_refused_with_its_number(line: str, said: str) -> None:
    """The message names the source, the line and what is wrong with it; the hint says what would be right."""
    with pytest.raises(BadRequest) as refused:
        Keys.parse(f"# first\n{line}\n", "keys")
    assert f"line 2 of keys: {said}" in str(refused.value)
    assert refused.value.hint


def test_a_key_itself_is_refused_and_never_shown() -> None:
    """Who puts the key in place of its hash is told so, and the message does not spread it."""
    for line in (KEY, f"alice {KEY}", f"{LINE} {KEY}", f"{LINE} models={KEY}"):
        with pytest.raises(BadRequest, match="line 1 of OLLAMA_MODAL_KEYS: it holds a key itself") as refused:
            Keys.parse(line)
        assert KEY not in f"{refused.value} {refused.value.hint}"


@given(st.text(st.characters(blacklist_characters="#", blacklist_categories=["Cs"]), min_size=1, max_size=60))
def test_whatever_stands_in_place_of_the_hash_is_never_shown(text: str) -> None:
    """A line that is no key is refused without repeating its second word: it may be somebody's password."""
    secret = f"hunter2{text}"
    with pytest.raises(BadRequest) as refused:
        Keys.parse(f"alice {secret.splitlines()[0]}")
    assert "hunter2" not in f"{refused.value} {refused.value.hint}"


def test_names_and_hashes_are_not_used_twice() -> None:
    """A name that is there twice, or one key under two names, is a mistake that would be found out too late."""
    with pytest.raises(BadRequest, match=r"line 2 of .*: there is a key 'alice' before"):
        Keys.parse(f"{LINE}\nalice {hash_of(OTHER)}")
    with pytest.raises(BadRequest, match=r"line 2 of .*: key 'bob' is key 'alice' again"):
        Keys.parse(f"{LINE}\nbob {hash_of(KEY)}")


def test_keys_come_from_several_places_together() -> None:
    """The home's file and the variable count both; a name that is in both is refused with the place of the second."""
    keys = Keys.gather({"the file": LINE, "the variable": f"bob {hash_of(OTHER)}"})
    assert keys.names == ("alice", "bob")
    with pytest.raises(BadRequest, match=r"line 2 of the variable: there is a key 'alice' before"):
        Keys.gather({"the file": LINE, "the variable": f"\nalice {hash_of(OTHER)}"})


def test_up_refuses_to_start_with_keys_that_are_wrong(tmp_path: Path) -> None:
    """Exit 2 before any server is started, with file, line and remedy, and without the secret."""
    shell = Shell(tmp_path)
    (shell.home / "om").mkdir()
    (shell.home / "om" / "keys").write_text(f"{LINE}\n{KEY}\n")
    done = shell.run("up", "--simulate", "--port", "0")
    assert (done.returncode, done.stdout) == (2, "")
    assert f"line 2 of {shell.home / 'om' / 'keys'}: it holds a key itself" in done.stderr
    assert "hint: make the line anew: `ollama-modal keys new NAME --line`" in done.stderr
    assert KEY not in done.stderr


@pytest.mark.parametrize(
    ("asked", "scopes"),
    [
        ([], "chat"),
        (["admin"], "chat admin"),
        (["chat", "admin"], "chat admin"),
        (["admin,chat"], "chat admin"),
        (["admin-only"], "admin"),
        (["admin-only", "chat"], "chat admin"),
        (["admin-only", "admin"], "chat admin"),
    ],
)
def test_an_administrators_key_may_chat(asked: list[str], scopes: str) -> None:
    """`keys new --scope admin` is for both, unless `admin-only` says otherwise; the line says all that it may."""
    assert " ".join(sorted(scopes_of(asked), reverse=True)) == scopes
    (key,) = Keys.parse(f"{LINE} {' '.join(scopes_of(asked))}")._keys
    assert str(key) == f"{LINE} {scopes}"


# -- who is let in -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "headers",
    [
        [(b"authorization", f"Bearer {KEY}".encode())],
        [(b"Authorization", f"bearer   {KEY} ".encode())],
        [(b"x-api-key", KEY.encode())],
        [(b"authorization", b"Basic b29w"), (b"x-api-key", KEY.encode())],
        [(b"authorization", b""), (b"X-Api-Key", KEY.encode())],
    ],
)
def test_a_key_comes_as_a_bearers_or_in_x_api_key(headers: list[tuple[bytes, bytes]]) -> None:
    """What the clients of OpenAI, Ollama (OLLAMA_API_KEY) and Anthropic send lets their owner in."""
    assert Keys.parse(LINE).identify(headers, NOW).name == "alice"


def basic(text: str) -> tuple[bytes, bytes]:
    return (b"authorization", b"Basic " + base64.b64encode(text.encode()))


@pytest.mark.parametrize("text", [f"alice:{KEY}", f"whoever:{KEY}", f":{KEY}", f"{KEY}:"])
def test_a_key_comes_as_the_password_of_basic_credentials(text: str) -> None:
    """Many clients have one field, for a URL: whatever the user is called, the password is the key."""
    assert Keys.parse(LINE).identify([basic(text)], NOW).name == "alice"


def test_credentials_for_something_else_are_in_nobodys_way() -> None:
    """A key in `x-api-key` wins over Basic credentials, which may be for a proxy before the gateway."""
    assert Keys.parse(LINE).identify([basic("proxy:its password"), (b"x-api-key", KEY.encode())], NOW).name == "alice"


@pytest.mark.parametrize(
    ("headers", "said"),
    [
        ([], "no key was sent"),
        ([(b"authorization", b"Basic !")], "no key was sent"),
        ([basic(":")], "no key was sent"),
        ([basic(f"{KEY}:{OTHER}")], "not known here"),
        ([basic(f"alice:{KEY}:")], "not known here"),
        ([(b"authorization", b"Bearer")], "no key was sent"),
        ([(b"authorization", b"Basic b29w")], "no key was sent"),
        ([(b"cookie", KEY.encode())], "no key was sent"),
        (bearer(OTHER), "not known here"),
        (bearer(hash_of(KEY)), "not known here"),
        (bearer(KEY[:-1]), "not known here"),
        (bearer(KEY + "x"), "not known here"),
        ([(b"authorization", b"Bearer \xff\xfe")], "not known here"),
        ([*bearer(KEY), *bearer(KEY)], "came twice"),
    ],
)
def test_nobody_else_is_let_in(headers: list[tuple[bytes, bytes]], said: str) -> None:
    """No key, a wrong one, its hash, or a header sent twice: 401, with what to send."""
    with pytest.raises(Unauthorized, match=said) as refused:
        Keys.parse(LINE).identify(headers, NOW)
    assert status_of(refused.value) == 401
    assert headers_of(refused.value)["www-authenticate"].startswith("Bearer")
    assert KEY not in str(body_of(refused.value))


def test_a_key_ends_at_its_moment() -> None:
    """Until then it is good; from then on it is refused by name."""
    keys = Keys.parse(f"{LINE} expires=2026-09-15T12:00:00+02:00")
    noon = datetime(2026, 9, 15, 10, tzinfo=UTC)
    assert keys.identify(bearer(KEY), noon - timedelta(microseconds=1)).name == "alice"
    with pytest.raises(Unauthorized, match="key 'alice' expired at 2026-09-15T10:00:00"):
        keys.identify(bearer(KEY), noon)


def test_without_keys_everybody_may_do_everything() -> None:
    """That is for loopback alone; whoever binds elsewhere asks `is_empty` first."""
    keys = Keys.parse("# none yet\n")
    assert keys.is_empty
    assert keys.identify([], NOW) is ANYONE
    assert keys.names == ("anyone",)


# -- what they may do --------------------------------------------------------------------------------------------------


def test_scopes_are_separate() -> None:
    """A key for chat cannot change anything, and one for administration alone cannot chat."""
    chat, admin = Caller("c", frozenset({CHAT})), Caller("a", frozenset({ADMIN}))
    chat.need(CHAT, ADMIN)
    admin.need(CHAT, ADMIN)
    with pytest.raises(Forbidden, match="key 'c' has the scope chat; this needs admin") as refused:
        chat.need(ADMIN)
    assert status_of(refused.value) == 403
    with pytest.raises(Forbidden):
        admin.need(CHAT)


@pytest.mark.parametrize(
    ("patterns", "model", "allowed"),
    [
        ((), "anything", True),
        (("llama3.2",), "llama3.2", False),  # the tag is part of the name
        (("llama3.2:latest",), "llama3.2", True),
        (("llama*",), "LLaMA3.2:1B", True),
        (("llama*",), "registry.ollama.ai/library/llama3.2:1b", True),
        (("registry.ollama.ai/*",), "llama3.2", True),
        (("llama*",), "evil.example/library/llama3.2", False),
        (("llama*",), "somebody/llama3.2", False),
        (("hf.co/*",), "hf.co/user/repo:Q4_K_M", True),
        (("hf.co/*",), "hf.com/user/repo", False),
        (("*:1b", "qwen*"), "qwen3:4b", True),
        (("llama*",), "llama.example.com/x/y", False),
        (("llama*",), "llama/x", False),
        (("*",), "llama3.2", True),
        (("*",), "somebody/llama3.2", False),
        (("*:latest",), "evil.example/x/y", False),
        (("llama*/*",), "llamafan/x", True),
        (("llama*/*",), "llama.example.com/x/y", False),
        (("llama*/*",), "llama/x/y", False),  # a host needs no dot where three parts are
        (("*/*",), "hf.co/user/repo", False),
        (("*/*",), "user/model", True),
        (("library/llama*",), "llama3.2", True),
        (("registry.ollama.ai/library/llama*",), "llama3.2", True),
        (("registry.ollama.ai/library/llama*",), "REGISTRY.ollama.ai/Library/LLaMA3.2", True),
        (("registry.ollama.ai/library/llama*",), "registry.ollama.ai/somebody/llama3.2", False),
        (("registry.ollama.ai/*",), "registry.ollama.ai:443/library/llama3.2", False),
        (("hf.co/acme/*",), "hf.co/acme/repo:q4", True),
        (("hf.co/acme*",), "hf.co/acmeevil/repo", True),
        (("hf.co/acme/*",), "hf.co/acme-evil/acme", False),
        (("*.example.com/*",), "models.example.com/x/y", True),
        (("localhost/*",), "localhost/x/y", True),
        (("localhost:5000/*",), "localhost:5000/x/y", True),
        (("*/*/*",), "evil.example/x/y", True),
    ],
)
def test_models_are_allowed_by_pattern(patterns: tuple[str, ...], model: str, allowed: bool) -> None:
    """A pattern fits the name as people type it, or in full, in any case, always with its tag; `*` is no host."""
    caller = Caller("alice", frozenset({CHAT}), patterns)
    name = ModelName.parse(model)
    assert caller.may_use(name) is allowed
    if not allowed:
        with pytest.raises(Forbidden, match="key 'alice' may not use"):
            caller.need_model(name)


def test_a_restricted_key_may_not_ask_for_all_models() -> None:
    """What is about all models at once is about those it may not use, too."""
    Caller("alice", frozenset({ADMIN})).need_model(None)
    with pytest.raises(Forbidden, match="all models at once"):
        Caller("alice", frozenset({ADMIN}), ("llama*",)).need_model(None)


# -- how much ----------------------------------------------------------------------------------------------------------


def test_a_minute_slides() -> None:
    """So many requests pass within any sixty seconds; the next is told when to come again, and then passes."""
    clock = HandClock()
    limits, caller = RateLimits(clock), Caller("alice", frozenset(), limits=Limits(rpm=3))
    for _ in range(3):
        limits.enter(caller)()
        clock.tick(10)
    with pytest.raises(TooManyRequests, match="3 times within a minute") as refused:
        limits.enter(caller)
    assert (status_of(refused.value), headers_of(refused.value)["retry-after"]) == (429, "30")
    clock.tick(30)
    limits.enter(caller)
    with pytest.raises(TooManyRequests):
        limits.enter(caller)


def test_so_many_at_once_and_no_more() -> None:
    """A request that has ended makes room for one, however often its end is told."""
    limits, caller = RateLimits(HandClock()), Caller("alice", frozenset(), limits=Limits(concurrent=2))
    leave, _ = limits.enter(caller), limits.enter(caller)
    with pytest.raises(TooManyRequests, match="2 requests under way") as refused:
        limits.enter(caller)
    assert headers_of(refused.value)["retry-after"] == "1"
    leave()
    leave()
    limits.enter(caller)
    with pytest.raises(TooManyRequests):
        limits.enter(caller)


def test_what_was_refused_is_not_counted() -> None:
    """A request that was too many at once does not use up the minute as well."""
    limits, caller = RateLimits(HandClock()), Caller("alice", frozenset(), limits=Limits(rpm=2, concurrent=1))
    leave = limits.enter(caller)
    for _ in range(5):
        with pytest.raises(TooManyRequests, match="under way"):
            limits.enter(caller)
    leave()
    limits.enter(caller)


def test_keys_do_not_share_their_limits() -> None:
    """What one key uses up is not missing to another, and without limits there are none."""
    limits = RateLimits(HandClock())
    limits.enter(Caller("alice", frozenset(), limits=Limits(rpm=1, concurrent=1)))
    limits.enter(Caller("bob", frozenset(), limits=Limits(rpm=1, concurrent=1)))
    for _ in range(1_000):
        limits.enter(ANYONE)


# -- statuses ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("trouble", "status"),
    [
        (BadName("x"), 400),
        (NotFound("x"), 404),
        (Unauthorized("x"), 401),
        (Forbidden("x"), 403),
        (TooManyRequests("x"), 429),
        (Stalled("x"), 504),
        (NetworkTrouble("x"), 503),
        (Bug("x"), 500),
        (Trouble("x"), 500),
    ],
)
def test_each_trouble_has_its_status(trouble: Trouble, status: int) -> None:
    """A class without a status of its own has that of its nearest ancestor; what nobody foresaw is 500."""
    assert status_of(trouble) == status


def test_the_only_key_shares_with_nobody() -> None:
    """Where there is one key, or none, all places are for whoever asks; of several keys each has a quarter."""

    def share(text: str) -> int:
        return share_of(512, Keys.parse(text).identify(bearer(KEY), NOW))

    assert share(LINE) == 512
    assert share(f"{LINE}\nbob {hash_of(OTHER)}") == 128
    assert share_of(512, ANYONE) == 512
    assert share_of(2, Caller("alice", frozenset())) == 1


def test_a_gateway_of_keys_alone_does_not_load_what_checks_signatures() -> None:
    """It takes 8 MB, and comes with the first line of a signer; a signature is refused without it."""
    asks = f"""
import sys
from datetime import UTC, datetime
from app.gateway.auth.keys import Keys
from app.gateway.auth.signatures import SignedRequest
from jobs.core.errors import Unauthorized
keys = Keys.parse("me {hash_of(KEY)} chat")
try:
    keys.identify([(b"authorization", b"AAAA:BBBB")], datetime.now(UTC), lambda: SignedRequest("GET", "/", "ts=1"))
except Unauthorized as refusal:
    print(refusal, "cryptography" in sys.modules)
"""
    said = subprocess.run([sys.executable, "-c", asks], check=True, capture_output=True, text=True).stdout
    assert said == "this key is not known here False\n"
