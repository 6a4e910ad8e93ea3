"""A model on disk, and what feeds it: format, tokenizer, chunking, batching, tuned settings."""
