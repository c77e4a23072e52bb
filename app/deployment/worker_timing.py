"""The times of the two workers. The limits of their Functions follow from these; plain values, cheap to import."""

from datetime import timedelta

LEASE = timedelta(seconds=60)
"""A killed worker's job waits this long."""

LONGEST = timedelta(hours=24)
"""The platform grants a call no more. A longer pull goes on in the next call, from the bytes that are here."""

START = timedelta(minutes=5)
"""A worker's container that is not up by then is given up for another. Unsaid, the limit of a call counts: a day."""

SPARE = timedelta(minutes=2)
"""Before the call's end: to hand back what is running and to commit."""

COMMIT_EVERY = timedelta(seconds=10)
"""What a killed container may lose of a pull."""
