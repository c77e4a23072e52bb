"""What one key may take of what all callers share: a quarter of it, so that no key can leave nothing for the others.

Constant, and no setting: with a share for each key that there is, a hundred keys would get next to nothing each, though
hardly two of them are ever busy at once. Where no keys are configured there is one caller, and all of it is his.
"""

from app.gateway.keys import ANYONE, Caller

OF_ALL = 4


def share_of(most: int, caller: Caller) -> int:
    """How much of `most` this caller may take; always something."""
    return most if caller is ANYONE else max(1, most // OF_ALL)
