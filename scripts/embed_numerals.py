"""Export the demonstration checkpoint (see train_numerals.py) to engine/demo/bundle.

`engine export` follows transformers' translation pipeline, which decodes with 4 beams and up to 256
tokens unless a checkpoint sets anything but the library's defaults, and greedy search is such a
default. The checkpoint was trained for greedy search and 48 tokens, so these are set here.
"""

import shutil
import sys
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from engine.bundle import format as bundle_format  # noqa: E402
from engine.demo import BUNDLE  # noqa: E402
from engine.export import export  # noqa: E402

MAX_NEW_TOKENS = 48


def main() -> None:
    """Export, set greedy search, and replace the embedded bundle."""
    checkpoint = ROOT / "engine/demo/checkpoint"
    with TemporaryDirectory() as scratch:
        bundle = Path(scratch) / "bundle"
        export(str(checkpoint), bundle, task="translation_es_to_pt")
        description = bundle_format.load(bundle).description
        assert description.model_config.decoder
        greedy = replace(
            description.model_config.decoder,
            max_new_tokens=MAX_NEW_TOKENS,
            search=bundle_format.GenerationConfig(),
        )
        config = replace(description.model_config, decoder=greedy)
        bundle_format.save(bundle, replace(description, model_config=config))
        shutil.rmtree(BUNDLE)
        shutil.copytree(bundle, BUNDLE)


if __name__ == "__main__":
    main()
