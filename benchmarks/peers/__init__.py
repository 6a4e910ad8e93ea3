"""An adapter for the engine and for each peer; ../README.md says what one contains."""
