"""The demo: train a small model, encode held-out samples to token files, decode those files, and show it all."""
