"""Who may ask, proved how, how often.

fair_shares  fair shares: of what there is a limited number of, one key never has all
key_lines    the keys of lines: of a secret, and of a file that is read when it changes
keys         API keys: who may ask, for what, and until when
live_keys    the keys that count now: of lines, and of the ledger, read again and again
rate_limits  how much one key may ask for: requests in a minute, and at once
signatures   what Ollama's own command sends instead of a key: a signature
"""
