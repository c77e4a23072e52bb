"""What we promise, tried. Each test's docstring is the promise."""
