"""Options: their descriptions, their checks, and reading them from YAML."""
