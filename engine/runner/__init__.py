"""A run over a corpus: coordinator, worker, threads, manifest, parts, several GPUs."""
