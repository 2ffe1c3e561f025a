"""From YAML and overrides to a config: strict, with the origin of every value."""
