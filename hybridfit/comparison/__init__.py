"""Comparison with results of other tools: match, compare, report."""
