"""Benchmarks of tok4d: recorded experiments and speed measurements, each one command."""
