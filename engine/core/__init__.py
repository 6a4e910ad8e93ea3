"""Values and settings that every other room may use."""
