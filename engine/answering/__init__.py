"""Tables in memory, answered by the stages of a bundle, with what a run makes of the same rows."""
