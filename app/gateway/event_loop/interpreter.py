"""How Python itself is set for a process whose event loop serves people: garbage collection, and turns between threads.

A collection of all objects stops everything for 60 ms once the gateway is up, and most of what it looks at is there
for good. So what is there after the start is looked at no more (`gc.freeze`), and the youngest are collected less often
than Python would: a request leaves no circles behind, so nearly all of it is gone before anybody collects.

What was frozen is freed like all else when nobody refers to it; only circles of it stay. Circles that are made later
are collected by Python's own rule, as soon as enough has come together.
"""

import gc
import sys

THRESHOLDS = (3_000, 2, 10)
"""New objects until the youngest are collected; of such collections, until the next generation is; and so on. Three
thousand objects take less than a millisecond, and three times as many the generation behind them."""

SWITCH_SECONDS = 0.0005
"""So long a thread computes while the event loop waits for its turn; Python's own five milliseconds are what each turn
of the loop waits while any thread reads a ledger or makes a list."""


class ServingInterpreter:
    """The settings of this process, from `start` to `stop`. The thread that starts and stops the gateway owns it."""

    def __init__(self) -> None:
        #: Read by the thread that refreshes what is known, too.
        self._is_started = False
        self._thresholds = gc.get_threshold()
        self._switch_seconds = sys.getswitchinterval()

    def start(self) -> None:
        """Once all that stays is there: collect what does not, and look at the rest no more."""
        gc.collect()
        gc.freeze()
        gc.collect()  # of nothing: Python waits for a quarter of what it found last to come together
        gc.set_threshold(*THRESHOLDS)
        sys.setswitchinterval(SWITCH_SECONDS)
        self._is_started = True

    def keep(self) -> None:
        """Something was made that stays, as what is known of the models: look at that no more, either.

        At the cost of nothing, so it collects nothing before: it is for what happens now and then, not for requests.
        """
        if self._is_started:
            gc.freeze()

    def stop(self) -> None:
        """As it was before the start; nothing is frozen any more."""
        if self._is_started:
            self._is_started = False
            sys.setswitchinterval(self._switch_seconds)
            gc.set_threshold(*self._thresholds)
            gc.unfreeze()
