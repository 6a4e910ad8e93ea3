"""ONNX graphs: read, built and rewritten, and stored with their weights."""
