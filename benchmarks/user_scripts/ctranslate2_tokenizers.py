"""Translation with CTranslate2 and nothing else but the tokenizers library: its quickest start."""

import json
import os
import sys

import ctranslate2
from tokenizers import Tokenizer

model, tokenizer_folder, rows, out, compute = sys.argv[1:6]
with open(rows, encoding="utf-8") as file:
    texts = [json.loads(line)["text"] for line in file]
translator = ctranslate2.Translator(model, device="cpu", compute_type=compute)
tokenizer = Tokenizer.from_file(os.path.join(tokenizer_folder, "tokenizer.json"))
tokenizer.no_padding()
tokenizer.enable_truncation(512)
results = translator.translate_batch(
    [encoding.tokens for encoding in tokenizer.encode_batch(texts)],
    beam_size=1,
    max_decoding_length=128,
    batch_type="tokens",
    max_batch_size=2048,
)
ids = [[tokenizer.token_to_id(token) for token in result.hypotheses[0]] for result in results]
answers = tokenizer.decode_batch(ids)
with open(f"{out}.tmp", "w", encoding="utf-8") as file:
    file.writelines(json.dumps({"answer": answer}) + "\n" for answer in answers)
os.replace(f"{out}.tmp", out)
