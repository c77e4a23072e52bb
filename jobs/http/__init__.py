"""What every outgoing exchange shares: its errors in our words, and watching one that may be silent.

errors           httpx's errors in our words, in one table: every request of ours is made inside `translated`
libraries_alone  has libraries imported without what nobody here uses of them
loopback         asks a server of this machine over plain HTTP, without httpx
watched_stream   one HTTP exchange that may be silent for minutes, watched while it lasts
"""
