"""What is counted and told: usage, container time, cost, incidents, the nightly report, cold starts, the webhook.

cold_estimate   how long a cold start will take yet, by earlier ones of its tier: pure
cold_starts     the starts of servers and the loads of models, by their phases
cold_table      cold starts as people see them: rows, and medians by tier
container_time  what the seconds of one container went to, as it counts them itself
cost            what the servers cost, from the seconds that their containers counted themselves
incidents       what somebody should know of: opened once, ended once, told once each
night_tries     how often the night that is due was tried, and when it is tried again
nightly_report  what the last night did: its jobs and their ends, what it left alone, how far the weights are read
request_times   when callers asked, by five minutes
usage           who used what: sums of each day, written without making a caller wait
webhook         tells a webhook, in the JSON that Slack and those who copy it understand
"""
