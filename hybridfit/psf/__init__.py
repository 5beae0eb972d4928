"""PSFs that vary over an image: one abstraction, and PSFs made from an image's own stars."""
