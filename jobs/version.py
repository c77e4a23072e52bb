"""The version, once: the build reads it from here, and so does whoever tells it.

A container holds our source and no installation of it, so nobody asks `importlib.metadata`.
"""

VERSION = "0.1.0"
