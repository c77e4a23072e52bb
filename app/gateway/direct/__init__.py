"""Answers the common request without a task, by what its connection and the server's call.

answer  one answer on its way from the server that was asked, and how it is handed to a task or stopped
heads   the heads that come again with common requests: which are plain, and whether a server can be asked at once
shared  what all direct answers share: what they are made from, and the end of a turn of the event loop
ways    where the requests for a model go, found once for many
"""
