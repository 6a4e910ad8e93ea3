"""Translate texts in memory with the model that ships with the package.

It turns Spanish numerals into Portuguese ones and needs no download. Put the folder of a bundle of
your own in place of `BUNDLE`; `Bundle.load` opens it once, and every call answers a list of texts.
"""

import engine
from engine.demo import BUNDLE


def main() -> None:
    translate = engine.Bundle.load(BUNDLE)
    table = translate(["cuarenta y dos", "mil novecientos ochenta y cuatro"], max_new_tokens=48)
    for row in table.to_pylist():
        print(row["translation_text"], row["output_tokens"], row["finish_reason"])


if __name__ == "__main__":
    main()
