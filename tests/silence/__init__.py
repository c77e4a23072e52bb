"""What fails beside us, one at a time: a disk that is full, a store that fails or hangs, threads on one ledger."""
