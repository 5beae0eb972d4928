"""Other measurements of the same galaxies, converted to our conventions."""
