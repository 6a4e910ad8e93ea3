"""Stop a run half way, run it again, and check the output.

    python examples/resume_and_verify.py OUT

The second run computes only the parts that are missing. In the end the output is, byte for byte,
that of a run that was never stopped. `verify` recounts the rows and hashes the files again.
"""

import sys
from functools import partial
from pathlib import Path

import engine
from engine.core.telemetry import Progress
from engine.demo import BUNDLE, corpus
from engine.runner.verify import verify


def stop_half_way(progress: Progress) -> None:
    """Called a few times a second. Ctrl-C raises the same exception."""
    if progress.split >= progress.splits // 2:
        raise KeyboardInterrupt


def main() -> None:
    folder = Path(sys.argv[1])
    corpus.write(folder / "corpus", 3000)
    # "reject" sets the corpus's bad rows aside; without it the run ends at the first one.
    run = partial(
        engine.run, BUNDLE, folder / "corpus", folder / "out", text="text", keep="id",
        on_error="reject", split_size=20_000,
    )  # fmt: skip
    try:
        run(on_progress=stop_half_way)
    except engine.errors.Stopped as error:
        print(f"stopped: {error}")
    report = run()
    print(f"{report.splits} parts, {report.splits_skipped} of them finished by the first run")
    check = verify(folder / "out")
    print(f"{check.rows_in} rows in = {check.rows_out} out + {check.rows_rejected} rejected")
    print(f"problems: {list(check.problems) or 'none'}")


if __name__ == "__main__":
    main()
