"""Data: what the stages hand to each other."""
