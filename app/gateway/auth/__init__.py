"""Who may ask, proved how, how often.

fair_shares  fair shares: of what there is a limited number of, one key never has all
keys         API keys: who may ask, for what, and until when
rate_limits  how much one key may ask for: requests in a minute, and at once
signatures   what Ollama's own command sends instead of a key: a signature
"""
