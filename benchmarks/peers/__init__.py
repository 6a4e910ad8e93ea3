"""A file for each library that is compared; see ../README.md for what it holds."""
