"""Who may do what, kept in the ledger: keys, what each may take, what it took.

limits  what one key may take: requests, tokens, seconds and dollars, by minute, day and month: pure
"""
