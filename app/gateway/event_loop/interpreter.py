"""How Python itself is set for a process whose event loop serves people."""
