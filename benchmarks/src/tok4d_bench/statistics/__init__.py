"""Statistics of columns: means with bootstrap errors, Fréchet distance, kernel distance, probes, ranks, codes.

Pure functions of float64 arrays, deterministic to the bit: sums run in the order of the samples and over blocks of one
fixed size, however the columns come in pieces, and what is random has a fixed seed.
"""
