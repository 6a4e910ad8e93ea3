"""Quantization recipes: what each does to the graphs of an fp32 bundle."""
