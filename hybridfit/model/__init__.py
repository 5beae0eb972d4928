"""Models: profiles, parameters and their prior."""
