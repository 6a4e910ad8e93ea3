"""A bundle measured on a corpus of its owner: a sweep of settings, a profile, and tuning."""
