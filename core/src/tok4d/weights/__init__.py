"""Weights: model folders (safetensors + config), and ways to start a model well."""
