"""The status page, and the summaries that it shows.

audit        who did what
cold         the cold starts, by their phases
cost         what was spent, about, and on what
daily        the last weeks by day, for charts: requests, cost, health
key_entries  keys as they come in and go out over HTTP
keys         keys: list, make, change, rotate, revoke
limits       what a key may take, what it took, and what is left until when
nightly      what the last night did
overview     what the page shows beside jobs, models and tiers: prices, pins, last uses, what runs next
page         serves the status page at `/ui`, with headers that let it do little
plans        what the next night or a prune would do, over HTTP
windows      the windows that would have paid
"""
