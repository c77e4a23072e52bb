"""Who may do what, and who did what, kept in the ledger: keys, what each may take, what it took.

acts          every act that is written down, and by which requests and commands it comes
audit         writes each act of an admin as a line, before it and with its outcome
audit_line    such a line: who, when, by which request, what, to what, with what outcome: pure
audit_thread  writes outcomes and refusals, so that no caller waits for that
budgets       what a key took of its budgets, what is granted, and what is left until when: pure
grants        grants slices of a budget, and keeps what became of them: nobody is granted what another has
limits        what one key may take: requests, tokens, seconds and dollars, by minute, day and month: pure
"""
