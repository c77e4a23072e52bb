"""The status page, and the summaries that it shows.

cost      what was spent, about, and on what
daily     the last weeks by day, for charts: requests, cost, health
nightly   what the last night did
overview  what a person who looks at the service wants to see beside jobs, models and tiers
page      serves the status page at `/ui`, with headers that let it do little
plans     what the next night or a prune would do, over HTTP
"""
