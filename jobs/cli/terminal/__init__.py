"""What a terminal can show.

screen  how wide it is, and colour; lines that are broken between words
table   tables that fit: how columns give way
"""
