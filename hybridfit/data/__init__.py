"""Data: structures passed between the stages."""
