"""A checkpoint: its files, tokenizer, settings, and its conversion by Optimum."""
