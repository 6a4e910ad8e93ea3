"""summarization: a summary of each text."""

from engine.tasks.encoder_decoder import encoder_decoder_task

TASK = encoder_decoder_task("summarization", "a summary of each text", "summary_text")
