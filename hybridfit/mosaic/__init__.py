"""The catalogue of an image: every source is found, fitted with its neighbours, and listed."""
