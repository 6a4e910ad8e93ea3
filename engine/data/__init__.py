"""Paths to splits to rows: everything that reads the corpus.

`plan` finds the files and cuts them into splits, `identity` hashes a split's bytes, `read` yields
its rows in windows, `first` those that stand first in many files. Only the columns that are asked
for are read.
"""

from engine.data.splits import expect_rows, find, identity, plan
from engine.data.windows import REASONS, first, first_bad, read

__all__ = ["REASONS", "expect_rows", "find", "first", "first_bad", "identity", "plan", "read"]
