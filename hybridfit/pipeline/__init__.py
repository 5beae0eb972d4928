"""The stages put together: measure a batch, and runs over arrays or files."""
