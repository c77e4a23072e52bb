"""Which ids a file has had, a million of them in little memory: some forty bytes each, however long they are."""

import hashlib
from array import array

_FIRST_SLOTS = 1 << 10


class CustomIds:
    """Ids by the order in which they came, from 1. Two that differ count as the same only if 128 bits of BLAKE2 do."""

    def __init__(self) -> None:
        self._halves = array("Q")  # two for each id
        self._slots = array("I", (0,)) * _FIRST_SLOTS  # open addressing: the number of an id, 0 for none

    def add(self, id: str) -> int | None:
        """Have the next id; the number of the one that was the same, if there was one."""
        digest = hashlib.blake2b(id.encode("utf-8", "surrogatepass"), digest_size=16).digest()
        high, low = int.from_bytes(digest[:8], "big"), int.from_bytes(digest[8:], "big")
        number = len(self._halves) // 2 + 1
        self._halves.append(high)
        self._halves.append(low)
        slots, halves = self._slots, self._halves
        last = len(slots) - 1
        at = low & last
        while there := slots[at]:
            if halves[2 * there - 2] == high and halves[2 * there - 1] == low:
                return there
            at = (at + 1) & last
        slots[at] = number
        if 3 * number > 2 * len(slots):
            self._grow()
        return None

    def skip(self) -> None:
        """Have a line that has no id."""
        self._halves.append(0)
        self._halves.append(0)

    def _grow(self) -> None:
        slots = array("I", (0,)) * (2 * len(self._slots))
        last = len(slots) - 1
        for there in self._slots:
            if there:
                at = self._halves[2 * there - 1] & last
                while slots[at]:
                    at = (at + 1) & last
                slots[at] = there
        self._slots = slots
