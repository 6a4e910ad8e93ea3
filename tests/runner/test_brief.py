"""A brief report fits a scheduler's database, whatever it is a report of."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine.runner.brief import MOST_BYTES, cut, size
from engine.runner.report import Report

COUNT = st.integers(0, 1 << 63)
SECONDS = st.floats(0, 1e12, allow_nan=False)
# Long texts are repeated ones, which are drawn quickly.
TEXT = st.text(max_size=20) | st.builds(
    lambda text, count: text * count, st.text(min_size=1, max_size=5), st.integers(1, 900)
)


def report(**fields: Any) -> Report:
    counts = dict.fromkeys(
        (
            "rows_in", "rows_out", "rows_rejected", "tokens", "truncated", "output_tokens",
            "splits", "splits_skipped", "rows_computed", "padded_tokens", "seconds",
            "rows_per_second", "tokens_per_second", "padding",
        ),
        0,
    )  # fmt: skip
    usual = {"out": "out", "task": "translation", "device": "cpu", "stage_seconds": {}}
    return Report(**{**usual, **counts, **fields})


@settings(suppress_health_check=[HealthCheck.too_slow])  # a machine may be busy
@given(
    st.builds(
        report,
        **dict.fromkeys(("rows_in", "rows_out", "rows_rejected", "tokens", "truncated"), COUNT),
        **dict.fromkeys(("output_tokens", "splits", "splits_skipped", "rows_computed"), COUNT),
        **dict.fromkeys(("seconds", "rows_per_second", "tokens_per_second"), SECONDS),
        padded_tokens=COUNT,
        repeats=COUNT,
        rows_resumed=COUNT,
        padding=SECONDS,
        occupancy=st.none() | st.floats(0, 1),
        out=TEXT,
        device=TEXT,
        rejected=st.dictionaries(TEXT, COUNT, max_size=12),
        notes=st.lists(TEXT, max_size=24).map(tuple),
        files=st.just(tuple(f"part-{n:05}-name.arrow" for n in range(20_000))),
        fingerprint=st.just("0" * 64),
    )
)
def test_a_brief_report_has_2_kb_at_most(full: Report) -> None:
    values = full.brief()
    assert len(json.dumps(values)) <= MOST_BYTES <= 2048
    assert len(json.dumps(values, ensure_ascii=False).encode("utf-8", "surrogatepass")) <= 2048
    assert json.loads(json.dumps(values)) == values
    assert values["rows_in"] == full.rows_in
    assert values["splits"] == full.splits
    rejected, notes = values["rejected"], values["notes"]
    assert isinstance(rejected, dict)
    assert isinstance(notes, list)
    assert sum(rejected.values()) == sum(full.rejected.values())
    assert len(notes) + int(str(values["notes_left_out"])) == len(full.notes)


def test_a_small_report_is_told_whole_but_for_files_and_times() -> None:
    full = report(
        rows_in=7, rejected={"null_text": 2, "not_text": 3}, notes=("a note",), files=("part",)
    )
    values = full.brief()
    assert values["rejected"] == {"not_text": 3, "null_text": 2}
    assert values["notes"] == ["a note"]
    assert values["notes_left_out"] == 0
    left_out = full.to_dict().keys() - values.keys()
    assert left_out == {"files", "ran", "stage_seconds"}


def test_the_most_frequent_reasons_are_named_and_the_others_summed() -> None:
    rejected = {f"reason_{n}": n for n in range(1, 30)}
    values = report(rejected=rejected).brief()["rejected"]
    assert isinstance(values, dict)
    assert list(values)[:2] == ["reason_29", "reason_28"]
    assert values["others"] == sum(range(1, 24))


@given(TEXT, st.integers(8, 200))
def test_a_cut_text_is_the_beginning_of_the_text(text: str, most: int) -> None:
    short = cut(text, most)
    assert size(short) <= most
    assert short == text or text.startswith(short.removesuffix("..."))
