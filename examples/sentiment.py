"""Sentiment of a few texts, from Python.

    python examples/sentiment.py MODEL

MODEL is a bundle, a checkpoint folder or a hub id of a text-classification model, such as
`distilbert/distilbert-base-uncased-finetuned-sst-2-english`. `bundle_for` exports a checkpoint once
and finds its bundle again the next time.
"""

import sys

import engine

TEXTS = ["What a lovely evening.", "The train was late again.", "It was all right."]


def main() -> None:
    classify = engine.Bundle.load(engine.bundle_for(sys.argv[1], task="text-classification"))
    labels = classify(TEXTS)
    for text, label, score in zip(TEXTS, labels["label"], labels["score"], strict=True):
        print(f"{label.as_py()} {score.as_py():.3f}  {text}")
    # Every label with its score, best first.
    print(classify(TEXTS[:1], top_k=0).to_pylist())


if __name__ == "__main__":
    main()
