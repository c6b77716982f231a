"""Measures of suites, by what they read: pairs of originals and reconstructions, embeddings, features to probe.

Each is a `tok4d_bench.contracts.Measure`; `tok4d_bench.plugin` registers them by name.
"""
