"""What somebody would write with another library: rows of JSON lines in, answers out, then the end.

Each is `python SCRIPT MODEL TOKENIZER ROWS OUT VARIANT`; ../startup.py starts them. The answers are
renamed into place, so that they are there as soon as they are whole.
"""
