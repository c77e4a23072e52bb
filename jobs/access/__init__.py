"""Who may do what, and who did what, kept in the ledger: keys, what each may take, what it took.

audit   each act of an admin as a line: who, by which request, what, with what outcome
limits  what one key may take: requests, tokens, seconds and dollars, by minute, day and month: pure
"""
