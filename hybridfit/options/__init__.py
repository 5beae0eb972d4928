"""Options: their checks, and their way from YAML."""
