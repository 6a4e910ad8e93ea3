"""text2text-generation: what an encoder-decoder model generates for each text."""

from engine.tasks.encoder_decoder import encoder_decoder_task

TASK = encoder_decoder_task(
    "text2text-generation", "what the model generates for each text", "generated_text"
)
