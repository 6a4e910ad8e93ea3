"""Translation as CTranslate2's documentation shows it, with the tokenizer of transformers."""

import json
import os
import sys

import ctranslate2
import transformers

model, tokenizer_folder, rows, out, compute = sys.argv[1:6]
with open(rows, encoding="utf-8") as file:
    texts = [json.loads(line)["text"] for line in file]
translator = ctranslate2.Translator(model, device="cpu", compute_type=compute)
tokenizer = transformers.AutoTokenizer.from_pretrained(tokenizer_folder)
encoded = tokenizer(texts, truncation=True, max_length=512)
results = translator.translate_batch(
    [encoding.tokens for encoding in encoded.encodings],
    beam_size=1,
    max_decoding_length=128,
    batch_type="tokens",
    max_batch_size=2048,
)
ids = [tokenizer.convert_tokens_to_ids(result.hypotheses[0]) for result in results]
answers = tokenizer.batch_decode(ids, skip_special_tokens=True)
with open(f"{out}.tmp", "w", encoding="utf-8") as file:
    file.writelines(json.dumps({"answer": answer}) + "\n" for answer in answers)
os.replace(f"{out}.tmp", out)
