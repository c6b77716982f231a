"""Configuration: dataclass schemas, a strict YAML loader, presets and curricula."""
