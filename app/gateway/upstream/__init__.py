"""The servers of a tier: connections to them, cold starts, loads, how they stand.

cold_start       cold starts: one waker per tier, and everybody else waits with it
loads            the loads of one tier that are wanted or under way, and how many there may be
server_requests  what the gateway asks of a server by itself: whether it is there, and to load a model
tier_state       how a tier stands, by what the gateway saw and what its containers reported
upstream_client  HTTP/1.1 to the servers of one tier: connections that stay open, one exchange on each at a time
"""
