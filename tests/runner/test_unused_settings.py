"""Settings that change nothing are named, with the reason; and they do change nothing."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.fakes import MODEL_CONFIGS

from engine import tasks
from engine.bundle.format import GenerationConfig
from engine.core.config import RunConfig
from engine.core.settings import declared
from engine.demo import BUNDLE
from engine.demo.numerals import spanish
from engine.pipeline import Bundle
from engine.runner.coordinator import run
from engine.runner.report import Report
from engine.runner.unused_settings import NEEDS, RunFacts, unused_notes

EVERY = [RunConfig, *(task.options for task in tasks.TASKS.values())]


def _facts(task_name: str, given: dict[str, Any], **facts: Any) -> RunFacts:
    """Of a run of a task over Parquet on a CPU."""
    task = tasks.find(task_name)
    model_config = facts.pop("model_config", MODEL_CONFIGS[task.name])
    names = {field.name for field in dataclasses.fields(RunConfig)}
    options = {name: value for name, value in given.items() if name not in names}
    settings = {name: value for name, value in given.items() if name in names}
    usual: dict[str, Any] = {
        "kinds": frozenset({"parquet"}), "by_ending": True, "typed": False, "on_gpu": False,
        "loaded": False,
    }  # fmt: skip
    return RunFacts(
        config=RunConfig.of({**settings, "options": options}),
        task=task,
        options=tasks.resolve_options(task, model_config, options),
        **{**usual, **facts},
    )


ALWAYS = {
    "text", "keep", "result_prefix", "limit", "format", "compression", "max_row_bytes",
    "batch_tokens", "workers", "tokenizers", "device", "on_error", "overwrite", "check_parts",
    "lock", "options", "share", "stall_timeout",
}  # fmt: skip
"""Settings that change something in every run, or whose misuse is refused."""


def test_every_setting_is_decided_to_need_something_or_nothing() -> None:
    without = {name for name, (_, setting) in declared(RunConfig).items() if not setting.needs}
    assert without == ALWAYS, "say what a new setting needs to change anything"


def test_every_need_is_known_and_every_condition_is_needed() -> None:
    needed = {
        need for one in EVERY for _, setting in declared(one).values() for need in setting.needs
    }
    assert needed == set(NEEDS)


@pytest.mark.parametrize(
    ("checkpoint", "given", "said"),
    [
        ({}, {"top_k": 5, "seed": 3}, ["top_k, seed changed nothing: do_sample is off"]),
        ({}, {"early_stopping": True}, ["early_stopping changed nothing: num_beams is 1"]),
        ({}, {"length_penalty": 2.0}, ["length_penalty changed nothing: num_beams is 1 and"]),
        ({}, {"length_penalty": 2.0, "return_scores": True}, []),
        ({"num_beams": 3}, {"early_stopping": True, "length_penalty": 2.0}, []),
        ({"do_sample": True}, {"top_k": 5}, []),
        ({"do_sample": True}, {"seed": 5}, []),
        ({"do_sample": True}, {"seed": 5, "text": "a,b"}, ["seed changed nothing: column 'b' has"]),
        ({"do_sample": True}, {"top_k": 5, "num_beams": 3}, ["top_k changed nothing: do_sample"]),
        ({"num_beams": 3}, {"top_k": 5, "do_sample": True}, []),
        ({"do_sample": True}, {"dedupe": False}, ["dedupe changed nothing: tokens are sampled"]),
        ({}, {"dedupe": False}, []),
    ],
    ids=str,
)
def test_options_of_a_search_that_change_nothing(
    checkpoint: dict[str, Any], given: dict[str, Any], said: list[str]
) -> None:
    plain = MODEL_CONFIGS["translation"]
    assert plain.decoder is not None
    decoder = dataclasses.replace(plain.decoder, search=GenerationConfig(**checkpoint))
    model_config = dataclasses.replace(plain, decoder=decoder)
    notes = unused_notes(_facts("translation", given, model_config=model_config), given)
    assert len(notes) == len(said)
    assert all(note.startswith(start) for start, note in zip(said, notes, strict=True))


# In an order of their own: their text is a part of a test's name, which all workers must know.
class _Kinds(frozenset[str]):
    def __repr__(self) -> str:
        return "+".join(sorted(self))


_PACKED, _LINES = _Kinds({"arrow", "jsonl.gz"}), _Kinds({"arrow", "jsonl"})


@pytest.mark.parametrize(
    ("task", "given", "facts", "said"),
    [
        ("ner", {"gpu_memory": 5}, {}, "gpu_memory changed nothing: the run is on the CPU"),
        ("ner", {"gpu_memory": 5}, {"on_gpu": True}, ""),
        ("ner", {"gpu_memory": 5}, {"on_gpu": True, "loaded": True}, "the bundle is loaded"),
        ("ner", {"threads": 2}, {"loaded": True}, "threads changed nothing: the bundle is loaded"),
        ("ner", {"threads": 2}, {"on_gpu": True}, "threads changed nothing: the graphs run on the"),
        ("ner", {"threads": 2}, {}, ""),
        ("ner", {"max_rejects": 5}, {}, "max_rejects changed nothing: on_error is fail"),
        ("ner", {"reject_text": True}, {}, "reject_text changed nothing: on_error is fail"),
        ("ner", {"max_rejects": 5, "reject_text": True, "on_error": "reject"}, {}, ""),
        ("ner", {"schema": {"id": "int64"}}, {}, "schema changed nothing: none of its columns"),
        ("ner", {"schema": {"id": "int64"}}, {"typed": True}, ""),
        ("ner", {"split_size": 5}, {"kinds": _PACKED}, "split_size chang"),
        ("ner", {"split_size": 5}, {"kinds": _LINES}, ""),
        ("ner", {"input_format": "csv"}, {}, "input_format changed nothing: the endings of all"),
        ("ner", {"input_format": "csv"}, {"by_ending": False}, ""),
        ("ner", {"window": 9999}, {}, "window changed nothing: token-classification reads at most"),
        ("ner", {"window": 99}, {}, ""),
        ("question-answering", {"max_length": 9, "max_seq_len": 8}, {}, "max_length changed noth"),
        ("question-answering", {"max_length": 9}, {}, ""),
        (
            "embeddings",
            {"prefix": "x", "prompt": "query"},
            {},
            "prefix changed nothing: prompt says",
        ),
        ("embeddings", {"prefix": "x"}, {}, ""),
        (
            "zero-shot",
            {"candidate_labels": "a", "multi_label": True},
            {},
            "multi_label changed nothi",
        ),
        ("zero-shot", {"candidate_labels": "a,b", "multi_label": True}, {}, ""),
        ("embeddings", {"truncation_side": "left", "chunk": "tokens"}, {}, "truncation_side chan"),
        ("embeddings", {"truncation_side": "left"}, {}, ""),
        ("embeddings", {"normalize": True, "pooling": "none"}, {}, "normalize changed nothing: po"),
        ("embeddings", {"normalize": True}, {}, ""),
        ("text-generation", {"chat": True, "return_full_text": True}, {}, "return_full_text chang"),
        ("text-generation", {"return_full_text": True}, {}, ""),
        # What has its default asks for nothing.
        ("ner", {"gpu_memory": 0, "max_rejects": -1, "window": 4096}, {}, ""),
    ],
    ids=str,
)
def test_settings_that_change_nothing(
    task: str, given: dict[str, Any], facts: dict[str, Any], said: str
) -> None:
    names = {"ner": "token-classification", "embeddings": "feature-extraction"}
    task = {**names, "zero-shot": "zero-shot-classification"}.get(task, task)
    notes = unused_notes(_facts(task, given, **facts), given)
    assert len(notes) == bool(said)
    assert all(said in note for note in notes)


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    table = pa.table({"text": [spanish(n) for n in range(20)], "id": range(20)})
    file = tmp_path / "numbers.arrow"
    with pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table)
    pq.write_table(table, tmp_path / "numbers.parquet")
    return file


def _parts(out: Path, report: Report) -> list[bytes]:
    return [(out / file).read_bytes() for file in report.files]


@pytest.mark.parametrize(
    "given",
    [
        {"gpu_memory": 1 << 30},
        {"max_rejects": 3},
        {"reject_text": True},
        {"schema": {"id": "int32"}},
        {"split_size": 100},
        {"input_format": "arrow"},
        {"window": 5000},
        {"seed": 3},
        {"top_p": 0.3},
        {"length_penalty": 3.0},
        {"early_stopping": True},
    ],
    ids=str,
)
def test_what_is_said_to_change_nothing_changes_no_byte(
    given: dict[str, Any], corpus: Path, tmp_path: Path
) -> None:
    """The note is true: the parts are those of a run without the setting."""
    plain = run(BUNDLE, corpus, tmp_path / "plain")
    report = run(BUNDLE, corpus, tmp_path / "out", **given)
    (name,) = given
    assert any(note.startswith(f"{name} changed nothing: ") for note in report.notes)
    assert not any("changed nothing" in note for note in plain.notes)
    assert _parts(tmp_path / "out", report) == _parts(tmp_path / "plain", plain)


def test_a_loaded_bundle_has_its_threads_and_memory(corpus: Path, tmp_path: Path) -> None:
    bundle = Bundle.load(BUNDLE)
    report = run(bundle, corpus, tmp_path / "out", threads=2, gpu_memory=1 << 30)
    assert "threads, gpu_memory changed nothing: the bundle is loaded already" in report.notes


@pytest.mark.parametrize("given", [{"split_size": 100}, {"keep": "id", "schema": {"id": "int32"}}])
def test_what_changes_something_is_not_said(
    given: dict[str, Any], corpus: Path, tmp_path: Path
) -> None:
    report = run(BUNDLE, corpus.with_suffix(".parquet"), tmp_path / "out", **given)
    assert not any("changed nothing" in note for note in report.notes)
