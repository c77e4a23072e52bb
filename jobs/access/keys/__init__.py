"""Keys in the ledger: what each is, how it is made, changed and revoked, and how a lost store gets them back.

key_change   what somebody wants changed of a key: pure
key_copy     a copy of all keys in a file, and what it restores
key_records  one version of a key, as it is kept and as it is told: pure
key_store    keys as versions that are written once: made, changed, revoked, whoever races
key_words    the words that a key is described in: name, scopes, models, end: pure
proofs       what proves a key: the hash of one, or a public key: pure
"""
