"""Models: profiles, their rendering and simulation."""
