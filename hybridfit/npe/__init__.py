"""The amortized neural posterior."""
