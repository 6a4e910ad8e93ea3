"""The whole table of corpora."""

from corpora_of_folders import CORPORA as OF_FOLDERS
from corpora_of_lines import CORPORA as OF_LINES
from corpora_of_tables import CORPORA as OF_TABLES

ALL = [*OF_LINES, *OF_TABLES, *OF_FOLDERS]
