"""Comparison with other tools' results: match, compare, report."""
