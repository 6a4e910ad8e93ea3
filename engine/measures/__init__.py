"""How alike two answers to the same rows are: the figures of a recipe's acceptance test and of
`engine compare`. Columns in, figures out; no files, and nothing of a model."""
