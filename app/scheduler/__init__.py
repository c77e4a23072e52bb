"""What is due and posted: tick, night, windows, wake budget, alerts.

absence        an app that was stopped for so long that the ledger has forgotten: seen and told
alert_check    how the tiers are and what is wrong, at every tick; and the delivery of the news
alert_rules    what is wrong now: from what is written down to incidents
batch_starts   when batches begin, by how the tiers are; their wakes, and who goes early
night_plan     what should be, against what is: the steps of a night, each with its reason; pure
outages        what the platform failed at, as a fact that the alert check reads
parts          the parts of a tick or a night: each has its turn, whichever of the others fails
runs           what each schedule does in its turn: a tick, a night; the platform is handed in
steps          what the runs are made of: the ledger kept moving, windows kept open, a night posted
upstream_tags  asks registries what the tags of some models mean now
wake_budget    how often a tier may be woken of our own accord in a day
"""
