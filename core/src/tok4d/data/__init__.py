"""Data: sources of samples, the mixture schedule, batches, and recipes that fetch real data from package registries."""
