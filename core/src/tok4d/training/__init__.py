"""Training: the Lightning module and data, optimisation, checkpoints that resume to the bit, and the stage runner."""
