"""Screenshots of the docs: reports of five runs, one of each family of tasks, and a comparison.

    scripts/screenshots [--work FOLDER] [--shared FOLDER]

The corpora and trained checkpoints are those of a folder ../shared, which is no part of the
repository. Bundles and outputs are kept in the work folder, so that a second call only draws.
"""

from __future__ import annotations

import argparse
import csv
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

from PIL import Image, ImageChops

ROOT = Path(__file__).parents[1]
OUT = ROOT / "docs/screenshots"
CHROMIUM = ("chromium", "chromium-browser", "google-chrome")
MOST_BYTES = 150_000
COLOURS = 128
Row = Mapping[str, Any]


@dataclass(frozen=True)
class Shown:
    """A run to show.

    Attributes:
        name: Of its bundle, its output and its page.
        checkpoint: Below the folder of checkpoints.
        task: As `engine export` takes it.
        run: Options of `engine run`; report: of `engine report`.
    """

    name: str
    checkpoint: str
    task: str
    run: Sequence[str]
    report: Sequence[str] = ()


RUNS = (
    Shown("sentiment", "minilm-sst2", "text-classification", (), ("--truth", "truth")),
    Shown("entities", "minilm-wnut17", "token-classification",
          ("--aggregation-strategy", "simple")),
    Shown("questions", "untrained-qa", "question-answering", ("--text", "question,context"),
          ("--truth", "truth")),
    Shown("summaries", "flan-t5-small", "summarization", ("--max-new-tokens", "60"),
          ("--truth", "truth")),
    Shown("embeddings", "all-MiniLM-L6-v2", "feature-extraction", (), ("--colour", "topic")),
)  # fmt: skip


def sentiment(data: Path) -> Iterable[Row]:
    names = {"0": "NEGATIVE", "1": "POSITIVE"}
    with (data / "sst2/dev.tsv").open(encoding="utf-8") as file:
        for n, row in enumerate(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)):
            yield {"id": n, "text": row["sentence"], "truth": names[row["label"]]}
            if n % 300 == 0:  # a corpus has bad rows, too
                yield {"id": -n, "text": None, "truth": ""}


def entities(data: Path) -> Iterable[Row]:
    text = (data / "wnut17/dev.conll").read_text(encoding="utf-8")
    for n, block in enumerate(filter(str.strip, text.split("\n\n"))):
        yield {"id": n, "text": " ".join(line.split("\t")[0] for line in block.splitlines())}


def questions(data: Path) -> Iterable[Row]:
    corpus = json.loads((data / "xquad/xquad.es.json").read_text(encoding="utf-8"))
    for article in corpus["data"][:16]:
        for paragraph in article["paragraphs"][:2]:
            for one in paragraph["qas"]:
                yield {"id": one["id"], "question": one["question"],
                       "context": paragraph["context"],
                       "truth": one["answers"][0]["text"]}  # fmt: skip


def summaries(data: Path) -> Iterable[Row]:
    with (data / "scitldr/dev.jsonl").open(encoding="utf-8") as file:
        for line in islice(file, 60):
            row = json.loads(line)
            text = "summarize: " + " ".join(row["source"])
            yield {"id": row["paper_id"], "text": text, "truth": row["target"][0]}


def embeddings(data: Path) -> Iterable[Row]:
    with (data / "agnews/dev.tsv").open(encoding="utf-8") as file:
        rows = csv.reader(islice(file, 1, 2001), delimiter="\t", quoting=csv.QUOTE_NONE)
        for n, (text, topic) in enumerate(rows):
            yield {"id": n, "text": text, "topic": topic}


CORPORA = {"sentiment": sentiment, "entities": entities, "questions": questions,
           "summaries": summaries, "embeddings": embeddings}  # fmt: skip


def engine(work: Path, *words: object) -> None:
    """Run a command of the engine in the work folder; rejected rows are no failure."""
    command = [sys.executable, "-m", "engine", *map(str, words)]
    print("$ engine", *words, flush=True)
    if subprocess.run(command, check=False, cwd=work).returncode not in (0, 3):
        sys.exit(f"failed: {' '.join(command)}")


def write_corpora(folder: Path, data: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in CORPORA.items():
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows(data))
        (folder / f"{name}.jsonl").write_text(text, encoding="utf-8")


def make_checkpoints(folder: Path, models: Path) -> None:
    """The trained ones, and one that nobody has trained: there is none for questions."""
    if not folder.exists():
        subprocess.run([sys.executable, models / "build.py", folder], check=True)
    if (folder / "untrained-qa").exists():
        return
    import torch
    from transformers import AutoModelForQuestionAnswering, AutoTokenizer

    torch.manual_seed(0)
    base = folder / "all-MiniLM-L6-v2"
    AutoModelForQuestionAnswering.from_pretrained(base).save_pretrained(folder / "untrained-qa")
    AutoTokenizer.from_pretrained(base).save_pretrained(folder / "untrained-qa")


def make_pages(work: Path) -> list[Path]:
    """Export, run and report what is missing; returns the pages."""
    pages = []
    for shown in RUNS:
        if not (work / "bundles" / shown.name).exists():
            checkpoint = f"checkpoints/{shown.checkpoint}"
            engine(work, "export", checkpoint, "--task", shown.task, "-o", f"bundles/{shown.name}")
        pages.append(make_page(work, shown))
    if not (work / "bundles/sentiment-int8").exists():
        engine(work, "quantize", "bundles/sentiment", "-o", "bundles/sentiment-int8")
    make_page(work, replace(RUNS[0], name="sentiment-int8"))
    sides = ("outputs/sentiment", "outputs/sentiment-int8")
    words = ["--key", "id", "--truth", "truth", "-o", "pages/comparison.html"]
    engine(work, "compare", *sides, *words)
    return [*pages, work / "pages/comparison.html"]


def make_page(work: Path, shown: Shown) -> Path:
    """Run, and make the page of the run. Names are relative: a page shows them."""
    corpus, out = f"in/{shown.name.removesuffix('-int8')}.jsonl", f"outputs/{shown.name}"
    page = f"pages/{shown.name}.html"
    (work / "pages").mkdir(exist_ok=True)
    words = ["--keep", "all", "--on-error", "reject", *shown.run]
    engine(work, "run", f"bundles/{shown.name}", corpus, "-o", out, *words)
    engine(work, "report", out, "-o", page, *shown.report)
    return work / page


def shoot(page: Path, picture: Path, width: int, height: int, *, dark: bool = False) -> None:
    """A page as a small PNG, without the empty space below it."""
    browser = next(filter(None, map(shutil.which, CHROMIUM)), None)
    if browser is None:
        sys.exit("no Chromium is installed")
    with tempfile.TemporaryDirectory() as folder:
        scheme = ["--blink-settings=preferredColorScheme=0"] * dark
        raw = Path(folder, "raw.png")
        command = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
                   "--no-first-run", "--disable-background-networking", *scheme,
                   f"--user-data-dir={folder}/user", f"--screenshot={raw}",
                   f"--window-size={width},{height}", page.as_uri()]  # fmt: skip
        subprocess.run(command, check=True, capture_output=True)
        shot = Image.open(raw).convert("RGB")
    blank = Image.new("RGB", shot.size, shot.getpixel((0, shot.height - 1)))
    bottom = (ImageChops.difference(shot, blank).getbbox() or (0, 0, 0, height))[3]
    cut = shot.crop((0, 0, width, min(height, bottom + 24)))
    cut.quantize(COLOURS, dither=Image.Dither.NONE).save(picture, optimize=True)
    size = picture.stat().st_size
    print(f"{picture.name}: {cut.width} × {cut.height}, {size:,} bytes; {page.name}: "
          f"{page.stat().st_size:,} bytes")  # fmt: skip
    if size >= MOST_BYTES:
        sys.exit(f"{picture} has more than {MOST_BYTES:,} bytes")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=ROOT / ".test-cache/screenshots")
    parser.add_argument("--shared", type=Path, default=ROOT.parent / "shared")
    given = parser.parse_args()
    work, shared = given.work.absolute(), given.shared.absolute()
    if not shared.is_dir():
        sys.exit(f"{shared}: no corpora and checkpoints are there; name them with --shared")
    write_corpora(work / "in", shared / "data")
    make_checkpoints(work / "checkpoints", shared / "models")
    OUT.mkdir(exist_ok=True)
    for page in make_pages(work):
        shoot(page, OUT / f"{page.stem}.png", 1200, 4400)
    shoot(work / "pages/sentiment.html", OUT / "sentiment-dark.png", 1200, 4400, dark=True)
    shoot(work / "pages/sentiment.html", OUT / "sentiment-narrow.png", 500, 2400)


if __name__ == "__main__":
    main()
