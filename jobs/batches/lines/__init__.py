"""The lines of a batch: read through before one runs, their results kept as they come, put together in the end.

assembly      puts results together, in the order of the lines
custom_ids    which ids a file has had, a million of them in little memory
line_answers  what becomes of a line, by how it was answered: pure
line_check    reads a file through, and says of each line what is wrong with it
line_index    where each line of a file begins, and its model; reads lines by their number
line_texts    reads the lines that go next, some at once
result_lines  results in the shapes that OpenAI's and Anthropic's clients read: pure
segments      results as they come: each line has one, whoever is killed
unrun_lines   results of a batch of which no line was ever sent
"""
