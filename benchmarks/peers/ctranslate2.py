"""CTranslate2: converted weights, its own sorting, batches by tokens and parallel workers.

On a CPU its compute type "int8" is "int8_float32" for weights converted from fp32: one variant.
"""

from collections.abc import Callable
from typing import Any

from _conversions import kept

PACKAGES = ("ctranslate2", "transformers", "tokenizers")
ENV = "ctranslate2"
TASKS = ("translation", "summarization", "text-generation")
WAYS = [(1, 4096), (2, 512), (2, 1024)]
VARIANTS = {
    kind: [{"compute": kind, "workers": workers, "tokens": tokens} for workers, tokens in WAYS]
    for kind in ("float32", "int8_float32")
}


def load(job: dict[str, Any], setting: dict[str, Any]) -> Callable[[dict[str, Any]], list[Any]]:
    import ctranslate2
    import transformers
    from ctranslate2.converters import TransformersConverter

    prompted, options = job["task"] == "text-generation", job["options"]
    tokenizer = transformers.AutoTokenizer.from_pretrained(job["checkpoint"])
    kind = ctranslate2.Generator if prompted else ctranslate2.Translator
    workers = setting["workers"]
    converter = TransformersConverter(job["checkpoint"])
    # The weights get their compute type when they are loaded.
    folder = kept(job, "float32", lambda made: converter.convert(str(made), force=True))
    model = kind(
        str(folder), device="cpu", compute_type=setting["compute"], inter_threads=workers,
        intra_threads=max(1, job["threads"] // workers),
    )  # fmt: skip
    given = {"batch_type": "tokens", "max_batch_size": setting["tokens"]}
    given["sampling_topk"] = options["top_k"] if options.get("do_sample") else 1
    given["sampling_temperature"] = options.get("temperature", 1)
    given["length_penalty"] = options.get("length_penalty", 1.0)
    given["beam_size"], most = options["num_beams"], options["max_new_tokens"]

    def call(rows: dict[str, Any]) -> list[Any]:
        texts = rows[job["columns"][0]]
        encoded = tokenizer(texts, truncation=True, max_length=job["max_length"])
        tokens = [one.tokens for one in encoded.encodings]
        if prompted:
            limits = {"include_prompt_in_result": False, "max_length": most}
            found = model.generate_batch(tokens, **limits, **given)
            ids = [one.sequences_ids[0] for one in found]
        else:
            limits = {"max_input_length": 0, "max_decoding_length": most, "min_decoding_length": 0}
            found = model.translate_batch(tokens, **limits, **given)
            ids = [tokenizer.convert_tokens_to_ids(one.hypotheses[0]) for one in found]
        return list(tokenizer.batch_decode(ids, True, clean_up_tokenization_spaces=prompted))

    return call
