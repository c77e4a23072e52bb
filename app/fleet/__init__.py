"""What should be: `app/fleet.toml`, read and checked.

cron_times  the moments that a cron line names, each once, also where an hour comes twice
file        the file as it stands, and the times of the schedules, for whoever needs no more
schema      reads all of it, and refuses it whole with key, value and remedy
values      the kinds of value that a type alone cannot check
"""
