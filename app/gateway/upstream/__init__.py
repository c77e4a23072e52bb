"""The servers of a tier: connections to them, cold starts, loads, and the state of the tier.

cold_records     the cold starts that were waited for, written down, and the models that are waited for, told
cold_start       holds callers until their tier is awake and has their model loaded
cold_wait        what the gateway measures of one, and what that and its server's word come to together
cold_words       what a held caller waits for, in words and numbers
connection       one connection to a server, and the exchange that is on it
holding          how callers are held: for how long, how many, and what ends it
loads            the loads of one tier that are wanted or under way, and how many there may be
passed_chunks    chunks of a stream on their way: each that comes whole and by itself goes on as it came
server_requests  what the gateway asks of a server by itself: whether it is there, and to load a model
tier_state       the state of a tier, by what the gateway saw and what its containers reported
upstream_client  HTTP/1.1 to the servers of one tier: connections that stay open, one exchange on each at a time
waker            whether a tier is up, and waking it: one task wakes it, and everybody else waits for that one
"""
