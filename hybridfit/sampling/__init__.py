"""Sampling of posteriors: importance sampling, its proposals, and chains."""
