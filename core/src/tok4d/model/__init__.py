"""The tokenizer: encoder, KL bottleneck, FSQ, decoder, temporal tiles, and `Tokenizer` that puts them together."""
