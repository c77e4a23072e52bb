"""Who may do what, and who did what, kept in the ledger: keys, what each may take, what it took.

acts          every act that is written down, and by which requests and commands it comes
audit         writes each act of an admin as a line, before it and with its outcome
audit_line    such a line: who, when, by which request, what, to what, with what outcome: pure
audit_thread  writes outcomes and refusals, so that no caller waits for that
budgets       what a key took of its budgets, what is granted, and what is left until when: pure
grants        grants slices of a budget, and keeps what became of them: nobody is granted what another has
key_change    what somebody wants changed of a key: pure
key_copy      a copy of all keys in a file, and what it restores
key_records   keys as facts: versions, how they are made, changed and revoked
key_words     the words that a key is described in: name, scopes, models, end: pure
limits        what one key may take: requests, tokens, seconds and dollars, by minute, day and month: pure
proofs        what proves a key: the hash of one, or a public key: pure
"""
