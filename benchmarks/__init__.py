"""Scripts that measure speed and scale: see README.md."""
