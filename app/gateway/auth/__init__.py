"""Who may ask, proved how, how much.

admission      what stands between a request to a model and its server: limits of its key, and the fleet's budget
budgets        budgets of a day or a month, as one gateway lets requests in by them
fair_shares    fair shares: of what there is a limited number of, one key never has all
fleet_budget   the month's budget of all tiers together, where it stops something
key_lines      the keys of lines: of a secret, and of a file that is read when it changes
keys           API keys: who may ask, for what, and until when
line_troubles  why a line of a batch was not answered, in the words that its batch reads
live_keys      the keys that count now: of lines, and of the ledger, read again and again
passes         the passes of batches that count now: what their lines show in place of a key
rate_limits    how much one key may ask for: requests and tokens in a minute, and requests at once
signatures     what Ollama's own command sends instead of a key: a signature
"""
