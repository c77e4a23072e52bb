"""The checkout as it should be: imports, documents, the lock, scripts."""
