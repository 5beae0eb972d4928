"""Input and output: the only code that touches files."""
