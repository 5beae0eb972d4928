"""What others say of the same galaxies, in the project's conventions."""
