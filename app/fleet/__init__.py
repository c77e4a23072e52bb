"""What should be: `app/fleet.toml`, read and checked.

file        the file as it stands, and the times of the schedules, for whoever needs no more
right_parts what is right by itself of a file that is wrong elsewhere
schedule    when schedules are due: the moments that a cron line names, and the night that a moment belongs to
schema      reads all of it, and refuses it whole with key, value and remedy
values      the kinds of value that a type alone cannot check
"""
