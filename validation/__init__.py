"""Scripts that show how accurate and how honest the results are: see README.md."""
