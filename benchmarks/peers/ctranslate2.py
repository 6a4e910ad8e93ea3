"""CTranslate2: converted weights, its own sorting, batches by tokens and parallel workers.

On a CPU its compute type "int8" is "int8_float32" for weights converted from fp32: one variant.
"""

from collections.abc import Callable
from typing import Any

from _conversions import cached

PACKAGES = ("ctranslate2", "transformers", "tokenizers")
ENV = "ctranslate2"
TASKS = ("translation", "summarization", "text-generation")
SETTINGS = [(1, 4096), (2, 512), (2, 1024)]
VARIANTS = {
    kind: [{"compute": kind, "workers": workers, "tokens": tokens} for workers, tokens in SETTINGS]
    for kind in ("float32", "int8_float32")
}


def load(job: dict[str, Any], setting: dict[str, Any]) -> Callable[[dict[str, Any]], list[Any]]:
    import ctranslate2
    import transformers
    from ctranslate2.converters import TransformersConverter

    is_generator, options = job["task"] == "text-generation", job["options"]
    tokenizer = transformers.AutoTokenizer.from_pretrained(job["checkpoint"])
    kind = ctranslate2.Generator if is_generator else ctranslate2.Translator
    workers = setting["workers"]
    converter = TransformersConverter(job["checkpoint"])
    # The compute type is applied when the weights are loaded.
    folder = cached(job, "float32", lambda out: converter.convert(str(out), force=True))
    model = kind(
        str(folder), device="cpu", compute_type=setting["compute"], inter_threads=workers,
        intra_threads=max(1, job["threads"] // workers),
    )  # fmt: skip
    arguments = {"batch_type": "tokens", "max_batch_size": setting["tokens"]}
    arguments["sampling_topk"] = options["top_k"] if options.get("do_sample") else 1
    arguments["sampling_temperature"] = options.get("temperature", 1)
    arguments["length_penalty"] = options.get("length_penalty", 1.0)
    arguments["no_repeat_ngram_size"] = options.get("no_repeat_ngram_size", 0)
    arguments["beam_size"], longest = options["num_beams"], options["max_new_tokens"]

    def call(rows: dict[str, Any]) -> list[Any]:
        texts = rows[job["columns"][0]]
        encoded = tokenizer(texts, truncation=True, max_length=job["max_length"])
        tokens = [encoding.tokens for encoding in encoded.encodings]
        if is_generator:
            limits = {"include_prompt_in_result": False, "max_length": longest}
            results = model.generate_batch(tokens, **limits, **arguments)
            ids = [result.sequences_ids[0] for result in results]
        else:
            limits = {"max_decoding_length": longest, "min_decoding_length": 0}
            limits["max_input_length"] = 0
            results = model.translate_batch(tokens, **limits, **arguments)
            ids = [tokenizer.convert_tokens_to_ids(result.hypotheses[0]) for result in results]
        return list(tokenizer.batch_decode(ids, True, clean_up_tokenization_spaces=is_generator))

    return call
