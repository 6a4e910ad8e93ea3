"""The report of a run: what its page says, of which outputs, and what a run records for it."""

from __future__ import annotations

import dataclasses
import json
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
from support.commands import call
from support.fakes import FakeBackend, make_bundle, open_bundle, texts, write_jsonl
from support.pages import read_page
from support.runs import BoomError

import engine
from engine.errors import OutputError, SettingsError
from engine.reporting import read_report
from engine.reporting.timelines import combined, seconds_at_work
from engine.runner import timeline, worker
from engine.runner.starts import Start
from engine.runner.timeline import MOST_POINTS, Timeline

SECRET = "a text that nobody may read"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bundle(tmp_path_factory.mktemp("bundle") / "tiny", "text-classification")


@pytest.fixture(autouse=True)
def every_look_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "COUNTS_SECONDS", 0.0)
    monkeypatch.setattr(timeline, "FIRST_SECONDS", 0.0)


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """Three files with 9 bad rows."""
    folder = tmp_path / "in"
    for number in range(3):
        rows: list[Any] = [f"{SECRET} {text}" for text in texts(40, seed=number)]
        rows[3:6] = [None, None, None]
        name = "<b>&\x1b[31m.jsonl" if number == 1 else f"{number}.jsonl"
        write_jsonl(folder / name, rows, 40 * number)
    return folder


def answer(bundle: Path, corpus: Path, out: Path, fail_at: int = -1, **settings: Any) -> Any:
    def before(number: int) -> None:
        if number == fail_at:
            time.sleep(0.3)  # meanwhile the others are counted
            raise BoomError

    model = open_bundle(bundle, FakeBackend(before=before))
    return engine.run(model, corpus, out, text="text", keep="all", on_error="reject", workers=1,
                      batch_tokens=64, window=16, **settings)  # fmt: skip


def files(out: Path) -> dict[str, bytes]:
    return {p.relative_to(out).as_posix(): p.read_bytes() for p in out.rglob("*") if p.is_file()}


def test_the_page_of_a_run(bundle: Path, corpus: Path, tmp_path: Path) -> None:
    run = answer(bundle, corpus, tmp_path / "out")
    before = files(tmp_path / "out")
    page = engine.report(tmp_path / "out")
    assert page == tmp_path / "out.report.html"
    assert files(tmp_path / "out") == before
    text = page.read_text("utf-8")
    found = read_page(text)
    assert SECRET not in text
    assert "<b>" not in text
    assert "\\x1b[31m.jsonl" in text
    for shown in ("120", "111", "9", "92.50%", "7.50%", "null text", "fp32", "Padding", "tiny"):
        assert any(shown in one for one in found.texts), shown
    facts = read_report(tmp_path / "out").facts
    assert (facts.rows_in, facts.rows_out, facts.rows_rejected) == (120, 111, 9)
    assert facts.rejected == {"null_text": 9}
    assert [file.rows_rejected for file in facts.rejected_files] == [3, 3, 3]
    assert facts.tokens == run.tokens
    assert facts.repeats == run.repeats
    (start,) = facts.starts
    assert start.ended == "finished"
    assert start.counts["rows"] == 111
    assert start.timeline["rows"][-1] == 111
    assert start.timeline["padded"][-1] == run.padded_tokens
    assert start.cpu_seconds >= 0
    assert start.settings["workers"] == 1


def test_all_starts_of_a_run_are_shown(bundle: Path, corpus: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(BoomError):
        answer(bundle, corpus, out, fail_at=12)
    unfinished = read_report(out)
    assert not unfinished.facts.finished
    assert unfinished.facts.rows_open + unfinished.facts.rows_out > 0
    assert "has not finished" in read_page_of(out, tmp_path)
    answer(bundle, corpus, out)
    facts = read_report(out).facts
    assert [start.ended for start in facts.starts] == ["stopped", "finished"]
    computed = [start.counts.get("rows", 0) for start in facts.starts]
    resumed = facts.starts[1].counts.get("rows_resumed", 0)
    done_before = 111 - computed[1] - resumed
    assert computed[0] >= done_before + resumed > 0
    assert "Starts" in read_page_of(out, tmp_path)
    shutil.rmtree(tmp_path / "whole", ignore_errors=True)
    answer(bundle, corpus, tmp_path / "whole")
    parts = [{n: b for n, b in files(o).items() if n.startswith("part-")}
             for o in (out, tmp_path / "whole")]  # fmt: skip
    assert parts[0] == parts[1]


def read_page_of(out: Path, folder: Path) -> str:
    text = engine.report(out, folder / "page.html").read_text("utf-8")
    read_page(text)
    return text


def test_an_output_of_an_earlier_version_has_no_timeline(
    bundle: Path, corpus: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    answer(bundle, corpus, out)
    shutil.rmtree(out / "_manifest/starts")
    text = read_page_of(out, tmp_path)
    assert "Not recorded" in text
    assert "fingerprint" in text
    assert call("verify", out).returncode == 0
    again = answer(bundle, corpus, out)
    assert again.rows_computed == 0
    assert not (out / "_manifest/starts").exists()  # it computed nothing


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b'{"began": "x"}', b"\xff", b"null"])
def test_a_damaged_record_of_a_start_is_left_out(
    bundle: Path, corpus: Path, tmp_path: Path, content: bytes
) -> None:
    out = tmp_path / "out"
    answer(bundle, corpus, out)
    (record,) = (out / "_manifest/starts").iterdir()
    record.write_bytes(content)
    assert "Not recorded" in read_page_of(out, tmp_path)
    assert call("verify", out).returncode == 0


def test_a_stranger_s_record_of_a_start_is_left_out_or_shown(
    bundle: Path, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.pages.figures.available", lambda: False)
    out = tmp_path / "out"
    answer(bundle, corpus, out)
    (file,) = (out / "_manifest/starts").iterdir()
    record = json.loads(file.read_text("utf-8"))
    odd = (None, [], "x", -1, {"x": "y"}, {"x": {"y": [None]}}, 1e999, ["<script>"])
    for name in record:
        for value in odd:
            file.write_text(json.dumps({**record, name: value}), "utf-8")
            read_page_of(out, tmp_path)
    for name in ("gate", "source", "name"):
        for value in odd:
            content = {**record, "model": {**record["model"], name: value}}
            file.write_text(json.dumps(content), "utf-8")
            read_page_of(out, tmp_path)
    gates: Any = ({"rows": "x"}, {"size": []}, {"figures": {"a": {}}}, {"worst_layers": [1, None]})
    for gate in gates:
        content = {**record, "model": {**record["model"], "gate": gate}}
        file.write_text(json.dumps(content), "utf-8")
        read_page_of(out, tmp_path)


def test_another_run_takes_the_records_of_starts_with_the_folder(
    bundle: Path, corpus: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    answer(bundle, corpus, out)
    answer(bundle, corpus, out, max_length=16, overwrite=True)
    assert len(list((out / "_manifest/starts").iterdir())) == 1
    assert len(read_report(out).facts.starts) == 1


def test_one_file_and_shares(bundle: Path, corpus: Path, tmp_path: Path) -> None:
    answer(bundle, corpus, tmp_path / "out.parquet")
    assert engine.report(tmp_path / "out.parquet") == tmp_path / "out.parquet.report.html"
    assert read_report(tmp_path / "out.parquet").facts.rows_in == 120
    for share in ("1/2", "2/2"):
        answer(bundle, corpus, tmp_path / "shared", share=share)
    facts = read_report(tmp_path / "shared").facts
    assert sorted(start.share for start in facts.starts) == ["1/2", "2/2"]
    longest = max(start.seconds for start in facts.starts)
    assert seconds_at_work(facts.starts) == longest


def test_where_a_page_may_lie(bundle: Path, corpus: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    answer(bundle, corpus, out)
    for wrong, why in [
        (out / "report.html", "lies in the output of a run"),
        (out / "_manifest" / "report.html", "lies in the output of a run"),
        (tmp_path / "report.pdf", "ends in .html"),
        (tmp_path / "none" / "report.html", "no folder"),
        ("s3://bucket/report.html", "a local file"),
    ]:
        with pytest.raises(SettingsError, match=why):
            engine.report(out, wrong)
    with pytest.raises(OutputError, match="not the output of a run"):
        engine.report(tmp_path / "in", tmp_path / "report.html")
    assert not list(tmp_path.glob("*.html"))


def test_the_command(bundle: Path, corpus: Path, tmp_path: Path) -> None:
    out, page = tmp_path / "out", tmp_path / "page.html"
    answer(bundle, corpus, out)
    done = call("report", out, "--json")
    assert json.loads(done.stdout)["rejected"] == {"null_text": 9}
    assert not list(tmp_path.glob("*.html"))
    assert call("report", out, "-o", page).stdout == f"{page}\n"
    read_page(page.read_text("utf-8"))
    assert call("report", out).stdout == f"{tmp_path / 'out.report.html'}\n"


def test_a_timeline_stays_small_and_keeps_its_sums() -> None:
    looks = Timeline()
    looks.every = 0.25
    for look in range(100_000):
        looks.add(look * 0.25, {"rows": look, "tokens": 3 * look, "padded": 4 * look,
                                   "queued": 2})  # fmt: skip
    columns = looks.to_dict()
    assert MOST_POINTS // 2 <= len(columns["seconds"]) <= MOST_POINTS
    assert columns["rows"][-1] == 99_999
    assert columns["queued"][-1] == 2 * columns["looks"][-1] == 200_000
    line = combined([_start(columns, 25_000.0)])
    assert line is not None
    assert abs(line.rows_per_second - 4).max() < 0.1
    assert abs(line.padding - 4 / 3).max() < 0.01
    assert abs(line.queued - 2).max() < 0.01


def test_starts_follow_each_other_and_shares_stand_beside_each_other() -> None:
    columns = {"seconds": [0, 5, 10], "rows": [0, 50, 100], "tokens": [0, 50, 100],
               "padded": [0, 60, 120], "queued": [0, 1, 2], "looks": [1, 2, 3]}  # fmt: skip
    one = _start(columns, 10.0)
    other = dataclasses.replace(one, share="2/2")
    after = combined([one, one])
    beside = combined([one, other])
    assert after is not None
    assert beside is not None
    assert seconds_at_work([one, one]) == 20
    assert seconds_at_work([one, other]) == 10
    assert after.rows_per_second.round(6).tolist() == [10] * len(after.seconds)
    assert beside.rows_per_second.round(6).tolist() == [20] * len(beside.seconds)
    assert combined([]) is None


def _start(timeline: Any, seconds: float) -> Start:
    return Start(
        fingerprint="", began="2026-01-01T00:00:00+00:00", seconds=seconds, cpu_seconds=1.0,
        ended="finished", share="", ran={}, machine={}, model={}, settings={}, counts={},
        stage_seconds={}, rejected={}, timeline=timeline,
    )  # fmt: skip
