"""Scoring by files: originals in one folder, what any tokenizer made of them in another."""
