"""The latent card of a model: what its latents and codes are like, on stated data."""
