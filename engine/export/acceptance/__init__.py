"""What a bundle must pass before it is written: parity, and a recipe's gate."""
