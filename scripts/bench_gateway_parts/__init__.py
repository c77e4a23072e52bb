"""What `scripts/bench_gateway` is made of:

contestants   what is measured: ours, the others, and none at all; how each is started in front of one upstream
load_program  the program that plays upstream and callers: that of load/, in Go, where Go is; else python_load
measuring     what is measured of one contestant, from what the callers saw and what /proc says of its processes
processes     starting and pinning processes; their processor time and memory, whole trees of them
python_load   upstream and callers in Python, for where Go is not: slower than the fast ones of those measured
table         what is shown: the table with its ratios, and the picture
"""
