"""Whose batches and files are: those of a key stay that key's, also while it is the only one."""

from dataclasses import replace

from app.gateway.auth.keys import ANYONE, Caller
from app.gateway.batches.parts import is_own, lists_of, owner_of


def test_what_the_only_key_brings_is_its_own() -> None:
    """A key that happens to be the only one owns what it brings, so that its limits hold for its lines and `cost` names
    it; and it reads nothing of a key that is none any more."""
    ann = Caller("ann", frozenset({"chat"}), is_only=True)

    assert owner_of(ann) == owner_of(replace(ann, is_only=False)) == lists_of(ann) == "ann"
    assert is_own(ann, "ann")
    assert not is_own(ann, "bob")
    assert not is_own(ann, "")


def test_without_keys_all_is_everybodys() -> None:
    """Where there are no keys nothing is anybody's, and whoever asks sees all of it."""
    assert (owner_of(ANYONE), lists_of(ANYONE)) == ("", None)
    assert is_own(ANYONE, "")
    assert is_own(ANYONE, "ann")
