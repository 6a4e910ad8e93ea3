"""llama.cpp's own batches through the low-level functions of its Python binding."""

from pathlib import Path

# Tokens of one call.
BATCH = 512


class Context:
    """A model with a KV cache for some rows."""

    def __init__(self, file: Path, threads: int, rows: int, longest: int) -> None:
        import llama_cpp

        self.lib = lib = llama_cpp
        lib.llama_backend_init()
        self.model = lib.llama_model_load_from_file(
            str(file).encode(), lib.llama_model_default_params()
        )
        settings = lib.llama_context_default_params()
        settings.n_ctx, settings.n_batch, settings.n_ubatch = rows * longest, BATCH, BATCH
        settings.n_seq_max = rows
        settings.n_threads = settings.n_threads_batch = threads
        settings.kv_unified = False
        self.context = lib.llama_init_from_model(self.model, settings)
        self.vocabulary = lib.llama_vocab_n_tokens(lib.llama_model_get_vocab(self.model))
        self.batch = lib.llama_batch_init(BATCH, 0, 1)

    def generate(self, prompts: list[list[int]], most: int) -> list[list[int]]:
        """Greedy tokens of rows that do not end before their limit."""
        memory = self.lib.llama_get_memory(self.context)
        self.lib.llama_memory_clear(memory, True)
        tokens = self._prompted(prompts)
        outputs = [[token] for token in tokens]
        lengths = [len(prompt) for prompt in prompts]
        for _ in range(most - 1):
            step = [
                (t, n, row, True) for row, (t, n) in enumerate(zip(tokens, lengths, strict=True))
            ]
            tokens = self._decoded(step)
            lengths = [n + 1 for n in lengths]
            for output, token in zip(outputs, tokens, strict=True):
                output.append(token)
        return outputs

    def _prompted(self, prompts: list[list[int]]) -> list[int]:
        """The first token of each row; prompts are read in pieces of `BATCH` tokens."""
        every = [
            (token, at, row, at == len(prompt) - 1)
            for row, prompt in enumerate(prompts)
            for at, token in enumerate(prompt)
        ]
        pieces = (every[start : start + BATCH] for start in range(0, len(every), BATCH))
        return [token for piece in pieces for token in self._decoded(piece)]

    def _decoded(self, piece: list[tuple[int, int, int, bool]]) -> list[int]:
        """The likeliest token behind each of the tokens that are asked for."""
        import numpy as np

        batch = self.batch
        batch.n_tokens = len(piece)
        for n, (token, at, row, asked) in enumerate(piece):
            batch.token[n], batch.pos[n], batch.logits[n] = token, at, asked
            batch.n_seq_id[n], batch.seq_id[n][0] = 1, row
        if failure := self.lib.llama_decode(self.context, batch):
            raise RuntimeError(f"llama_decode gives {failure}")
        wanted = [n for n, (*_, asked) in enumerate(piece) if asked]
        logits = (self.lib.llama_get_logits_ith(self.context, n) for n in wanted)
        shape = (self.vocabulary,)
        return [int(np.ctypeslib.as_array(row, shape).argmax()) for row in logits]
