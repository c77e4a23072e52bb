"""The model's name in an answer, put back as its caller asked for it: Ollama answers with the name that it was asked.

Only answers to an alias pass here; all others go on byte for byte. In Ollama's frames and documents `"model"` stands
once a line, before what a model wrote, and not inside a text, where its quotes would be escaped.
"""

import json


class AnswerName:
    """Takes an answer piece by piece, and gives it on with the other name.

    Args:
        served: what the server was asked for.
        asked: what the caller asked for.

    """

    def __init__(self, served: str, asked: str) -> None:
        self._served = b'"model":' + json.dumps(served).encode()
        self._asked = b'"model":' + json.dumps(asked).encode()
        self._held = b""
        self._is_done = False
        """With the line that is passing."""

    def feed(self, piece: bytes) -> bytes:
        """What can go on now: all but what may be the beginning of the name."""
        text, self._held = self._held + piece, b""
        at, passed = 0, []
        while at < len(text):
            newline = text.find(b"\n", at)
            end = newline + 1 or len(text)
            found = -1 if self._is_done else text.find(self._served, at, end)
            if found >= 0:
                passed += [text[at:found], self._asked]
                at, self._is_done = found + len(self._served), True
                continue
            if newline < 0 and not self._is_done:
                end -= self._begun(text[at:])
                self._held = text[end:]
            passed.append(text[at:end])
            self._is_done = self._is_done and newline < 0
            at = end + len(self._held)
        return b"".join(passed)

    def rest(self) -> bytes:
        """What was held back, at the end of the answer."""
        held, self._held = self._held, b""
        return held

    def _begun(self, text: bytes) -> int:
        """How many bytes at its end may be the beginning of the name."""
        longest = min(len(self._served) - 1, len(text))
        return next((size for size in range(longest, 0, -1) if self._served.startswith(text[-size:])), 0)
