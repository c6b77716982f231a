"""Building blocks: attention over packed sequences, 4D RoPE, the position table, norms, blocks, pooling."""
