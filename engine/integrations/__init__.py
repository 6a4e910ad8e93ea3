"""Where the engine runs inside of other tools, one file for each.

This is the only room that imports them, inside of the functions that need them: none is loaded by
`import engine`, nor by a run. Each has an extra of its own.
"""
