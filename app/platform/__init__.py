"""Modal as it is called here: each wait has a limit, and each failure is one of ours.

calls       runs one call: waits within a limit, tries again while that helps
deployment  the Functions and servers of a deployed app
errors      what Modal's exceptions mean in `jobs.core.errors`: one table
limits      how long each call may take, and how often it is tried: plain values
store       Dict and Queue as the ledger wants them
volume      the Volume: commit and reload where it is mounted, files put and fetched where it is not
"""
