"""How the bytes of a model come into a server's memory.

memory      how much memory this container has, and what a process has mapped or read of its files
read_ahead  parallel readers that bring a model's blobs into the page cache while the engine loads it
"""
