"""Pages to look at: one HTML file of sections, without a script and with nothing from elsewhere."""
