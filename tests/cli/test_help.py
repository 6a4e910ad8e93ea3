"""Help in one screen, and messages in the words of the command line."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from support.commands import call, rows

import engine
from engine.cli import help_page
from engine.cli.typed_names import as_typed
from engine.core.settings import declared, parse_count
from engine.demo import BUNDLE
from engine.tasks import TASKS

__all__ = ["rows"]


def test_the_help_of_a_run_is_a_screen_in_groups() -> None:
    shown = call("run", "--help").stdout
    lines = shown.splitlines()
    assert len(lines) <= 40
    assert max(map(len, lines)) <= 80
    titles = [line[:-1].lower() for line in lines if re.fullmatch(r"[A-Z][\w, ]+:", line)]
    assert titles == list(help_page.grouped())
    assert call("run", "-h").stdout == shown


def test_every_option_of_a_run_is_in_one_group() -> None:
    from engine.cli.commands import load

    command = load("run")
    context = command.make_context("run", [], resilient_parsing=True)
    names = [p.name for p in command.get_params(context)]
    of_tasks = {name for task in TASKS.values() for name in declared(task.options)}
    elsewhere = of_tasks | {"model", "inputs", "help", "_click_default_help", "help_all"}
    grouped = [name for names in help_page.grouped().values() for name in names]
    assert sorted(grouped) == sorted(set(names) - elsewhere)


@pytest.mark.parametrize("name", ["ner", "translation_en_to_de", "question-answering"])
def test_a_task_shows_its_own_options_and_no_others(name: str) -> None:
    for shown in (call("run", "--task", name, "--help").stdout, call("tasks", name).stdout):
        from engine.tasks import find

        own = {"--" + option.replace("_", "-") for option in declared(find(name).options)}
        assert set(re.findall(r"^  (--[\w-]+):", shown, re.MULTILINE)) == own


def test_every_command_has_h() -> None:
    assert call("-h").stdout.startswith("Usage")
    assert call("verify", "-h").stdout.startswith("Usage")


@pytest.mark.parametrize(
    ("text", "number"),
    [("10k", 10_000), ("1.5M", 1_500_000), ("2G", 2_000_000_000), ("7", 7), (" 3K ", 3000)],
)
def test_numbers_have_units(text: str, number: int) -> None:
    assert parse_count(text) == number


@pytest.mark.parametrize("text", ["k", "1.5", "1.0005k", "10q", "1e3", "-1k"])
def test_other_texts_are_no_numbers(text: str) -> None:
    with pytest.raises(ValueError, match=re.escape(text)):
        parse_count(text)


def test_units_on_the_command_line(rows: Path, tmp_path: Path) -> None:
    done = call("run", BUNDLE, rows, "-o", tmp_path / "out", "--limit", "0.01k", "--dry-run")
    assert done.returncode == 0, done.stderr
    assert "limit 10," in done.stdout
    assert len(call("inspect", rows, "--rows", "0.002k").stdout) > 0
    done = call("run", BUNDLE, rows, "-o", tmp_path / "out", "--limit", "ten")
    assert done.returncode == 2
    assert "error: --limit is 'ten'\nhint: a whole number, 0 or more" in done.stderr


def test_names_are_as_they_are_typed() -> None:
    assert as_typed("max_length is -3") == "--max-length is -3"
    assert as_typed("limit is 3, and max_length, seed changed nothing: x") == (
        "--limit is 3, and --max-length, --seed changed nothing: x"
    )
    for text in (
        "a.jsonl: no column 'max_length'",
        "the text is here",
        "a/max_length: no such file",
    ):
        assert as_typed(text) == text


@pytest.mark.parametrize(
    ("arguments", "meant"),
    [
        (["rnu"], "'run'"),
        (["run", "--max-lenght", "3"], "--max-length"),
        (["run", BUNDLE, "FOLDER/rosw.jsonl", "-o", "out"], "rows.jsonl'"),
        (["run", BUNDLE, "FOLDER/rows.jsonl", "-o", "out", "--text", "txt"], "'text'"),
        (["inspect", str(BUNDLE)[:-1]], f"{BUNDLE}'"),
        (["verify", "FOLDER/rows.jsnl"], "rows.jsonl'"),
        (["tasks", "question-answring"], "'question-answering'"),
        (["tasks", "sentiment-analisys"], "'sentiment-analysis'"),
    ],
)  # fmt: skip
def test_what_was_meant_is_offered(arguments: list[str], meant: str, rows: Path) -> None:
    done = call(*(str(word).replace("FOLDER", str(rows.parent)) for word in arguments))
    assert done.returncode in (1, 2)
    assert meant in done.stderr


def test_threads_beyond_the_cores_are_capped_with_a_note(rows: Path, tmp_path: Path) -> None:
    done = call("run", BUNDLE, rows, "-o", tmp_path / "out", "--threads", "999", "--keep", "all")
    assert done.returncode == 0, done.stderr
    assert "note: --threads is 999, and " in done.stdout
    assert "auto took the CPU" not in done.stdout


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["run", "--limit"], "error: option '--limit' requires an argument\nhint: see "),
        (["run"], "error: missing argument 'model'\nhint: see "),
        (["verify", "--deep=1"], "engine verify --help"),
        (
            ["run", "--lmit", "3"],
            "error: no such option: --lmit\nhint: did you mean '--limit'? see ",
        ),
        (["demo", "--rows", "9" * 19], "from 20 to 10000000"),
    ],
)
def test_a_wrong_command_line_is_an_error_with_a_hint(words: list[str], said: str) -> None:
    done = call(*words)
    assert done.returncode == 2
    assert done.stdout == ""
    assert said in done.stderr


def test_every_number_of_every_command_has_units() -> None:
    from support.command_lines import NAMES

    from engine.cli.commands import load

    for name in NAMES:
        command = load(name)
        context = command.make_context(name, [], resilient_parsing=True)
        for parameter in command.get_params(context):
            assert parameter.type.name not in ("integer", "int", "integer range"), parameter.name
    assert call("bench", "nothing", "--budgets", "1k,x").stderr.startswith("error: --budgets is ")
    done = call("bench", "nothing", "--budgets", "1k", "--workers", "0.001k", "--limit", "0.1k")
    assert "nothing: no such bundle" in done.stderr
    for words in (["compare", "a", "b", "--examples", "1k"], ["demo", "--seed", "1k", "--export"]):
        assert "is not a whole number" not in call(*words, "--nothing").stderr


@pytest.mark.parametrize(
    ("arguments", "meant"),
    [
        (["run", "bundel", "rows.jsonl", "-o", "o"], "'bundle'"),
        (["run", BUNDLE, "rows.jsonl", "-o", "o", "--format", "parqet"], "'parquet'"),
        (["run", BUNDLE, "rows.jsonl", "-o", "o", "--device", "cud"], "'cuda'"),
        (["run", BUNDLE, "rows.jsonl", "-o", "o", "--log-format", "jsn"], "'json'"),
        (["run", BUNDLE, "rows.jsonl", "-o", "o", "--recipe", "int9"], "'int8'"),
        (["run", BUNDLE, "rows.jsonl", "-o", "o", "--keep", "all", "--schema", "rosw.jsonl"],
         "'rows.jsonl'"),
        (["run", BUNDLE, "rows.jsonl", "-o", "o", "-c", "rosw.jsonl"], "'rows.jsonl'"),
        (["rerun", "bundel"], "'bundle'"),
        (["gc", "bundel"], "'bundle'"),
        (["quantize", "bundel", "-o", "o"], "'bundle'"),
        (["convert", "bundle", "--to", "parqet", "-o", "o"], "'parquet'"),
        (["compare", "rows.jsonl", "rosw.jsonl"], "'rows.jsonl'"),
        (["report", "bundel"], "'bundle'"),
        (["verfy", "bundle"], "'verify'"),
        (["head", "--rowz", "3", "x"], "'--rows'"),
    ],
)  # fmt: skip
def test_a_name_that_is_refused_has_its_nearest(
    arguments: list[str], meant: str, rows: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(rows.parent)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (rows.parent / "bundle").mkdir()
    done = call(*arguments)
    assert done.returncode in (1, 2)
    assert "did you mean " in done.stderr.lower()
    assert meant in done.stderr


def test_a_loaded_bundle_has_no_more_threads_than_cores() -> None:
    pytest.importorskip("onnxruntime")
    with pytest.warns(UserWarning, match=r"threads is 999, and \d+ are used, one for each core"):
        engine.Bundle.load(BUNDLE, threads=999)
