"""Training objectives: per-sample loss terms, combined by weights from the config."""
