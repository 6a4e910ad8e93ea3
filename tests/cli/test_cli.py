"""The command line as a person meets it: messages, exit codes, JSON, interrupts."""

from __future__ import annotations

import gzip
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import engine
from engine import cli
from engine.demo import BUNDLE, CHECKPOINT, corpus
from engine.demo.numerals import portuguese, spanish
from engine.errors import MissingDependency
from engine.tasks import TASKS

ENGINE = [sys.executable, "-m", "engine"]


def call(*arguments: object, **more: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*ENGINE, *map(str, arguments)], capture_output=True, text=True, check=False, **more
    )  # type: ignore[call-overload]  # keyword arguments of run


@pytest.fixture
def numbers(tmp_path: Path) -> Path:
    file = tmp_path / "numbers.parquet"
    pq.write_table(pa.table({"id": range(40), "text": [spanish(n) for n in range(40)]}), file)
    return file


def test_help_and_version_answer() -> None:
    for arguments in (["--help"], ["run", "--help"], ["export", "--help"], ["demo", "--help"]):
        done = call(*arguments)
        assert done.returncode == 0
        assert "Usage" in done.stdout
    assert call("--version").stdout.startswith("corpus-engine ")


def test_run_writes_answers_and_a_summary(numbers: Path, tmp_path: Path) -> None:
    done = call("run", BUNDLE, numbers, "-o", tmp_path / "out", "--keep", "id")
    assert done.returncode == 0, done.stderr
    assert "40 rows in, 40 answered, 0 rejected" in done.stdout
    again = call("run", BUNDLE, numbers, "-o", tmp_path / "out", "--keep", "id", "--json")
    summary = json.loads(again.stdout)
    assert summary["splits_skipped"] == 1
    assert summary["rows_in"] == 40
    assert summary["seconds"] >= 0
    table = pa.ipc.open_file(tmp_path / "out" / summary["files"][0]).read_all()
    assert table["translation_text"].to_pylist() == [portuguese(n) for n in range(40)]
    assert table["id"].to_pylist() == list(range(40))


def test_inspect_and_verify_agree(numbers: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    call("run", BUNDLE, numbers, "-o", out, "--keep", "id")
    run = json.loads(call("inspect", out, "--json").stdout)
    assert run["kind"] == "run"
    assert run["rows_out"] == 40
    part = next(out.glob("part-*"))
    assert "translation_text" in call("inspect", part).stdout
    assert json.loads(call("inspect", BUNDLE, "--json").stdout)["task"] == "translation"
    assert call("verify", out).returncode == 0
    part.write_bytes(part.read_bytes()[:-1] + b"x")
    done = call("verify", out)
    assert done.returncode == 1
    assert part.name in done.stdout


def test_rejected_rows_end_with_exit_code_3(tmp_path: Path) -> None:
    file = tmp_path / "n.jsonl"
    file.write_text('{"text": "uno"}\n{broken\n{"text": null}\n{"text": "dos"}\n')
    done = call("run", BUNDLE, file, "-o", tmp_path / "out", "--on-error", "reject", "--json")
    assert done.returncode == 3
    summary = json.loads(done.stdout)
    assert (summary["rows_in"], summary["rows_out"], summary["rows_rejected"]) == (4, 2, 2)
    assert summary["rejected"] == {"broken_json": 1, "null_text": 1}
    again = call(
        "run", BUNDLE, file, "-o", tmp_path / "out", "--on-error", "reject", "--rejects-ok"
    )
    assert again.returncode == 0
    assert "2 rejected" in again.stdout
    rejects = [json.loads(line) for line in call("rejects", tmp_path / "out").stdout.splitlines()]
    assert [row["row"] for row in rejects] == [1, 2]
    assert [row["code"] for row in rejects] == ["broken_json", "null_text"]
    assert {row["file"] for row in rejects} == {str(file)}
    first = call("head", tmp_path / "out", "-n", "1").stdout.splitlines()
    assert [json.loads(line) for line in first] == engine.open(tmp_path / "out").head(1).to_pylist()


BAD_INPUTS = {
    "missing file": ("missing.parquet", None, [], 1, "no such file"),
    "empty glob": ("*.parquet", None, [], 1, "nothing matches"),
    "unknown ending": ("a.docx", b"text\n", [], 1, "unknown ending"),
    "empty parquet": ("a.parquet", b"", [], 1, "read as parquet"),
    "truncated parquet": ("a.parquet", b"PAR1 and then nothing", [], 1, "read as parquet"),
    "corrupt gzip": ("a.jsonl.gz", b"\x1f\x8b\x08 not gzip at all", [], 1, "be read as"),
    "cut gzip": ("a.jsonl.gz", gzip.compress(b'{"text": ""}\n' * 99)[:-9], [], 1, "be read"),
    "wrong column": ("a.jsonl", b'{"body": "uno"}\n', [], 2, "no column 'text'"),
    "wrong kept": ("a.jsonl", b'{"text": "uno"}\n', ["--keep", "id"], 2, "no column 'id'"),
    "broken line": ("a.jsonl", b'{"text": "uno"}\n{\n', [], 1, "row 1"),
    "null text": ("a.jsonl", b'{"text": null}\n', [], 1, "null or missing"),
    "number for text": ("a.jsonl", b'{"text": 7}\n', [], 1, "something other than the task takes"),
    "invalid utf-8": ("a.jsonl", b'{"text": "\xff"}\n', [], 1, "UTF-8"),
    "too many rejects": (
        "a.jsonl", b'{"text": 1}\n' * 3, ["--on-error", "reject", "--max-rejects", "2"], 1,
        "at most 2 are allowed",
    ),
    "unknown device": ("a.jsonl", b'{"text": "uno"}\n', ["--device", "tpu"], 2, "'tpu'"),
    "unknown format": ("a.jsonl", b'{"text": "uno"}\n', ["--format", "orc"], 2, "'orc'"),
    "option of another task": ("a.jsonl", b'{"text": "uno"}\n', ["--targets", "a"], 2, "'targets'"),
    "three texts": ("a.jsonl", b'{"text": "uno"}\n', ["--text", "text,b,c"], 2, "takes text"),
    "bad size": ("a.jsonl", b'{"text": "uno"}\n', ["--split-size", "many"], 2, "'many'"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_INPUTS)
def test_bad_input_says_what_where_and_what_to_do(case: str, tmp_path: Path) -> None:
    name, content, more, code, said = BAD_INPUTS[case]
    if content is not None:
        (tmp_path / name).write_bytes(content)
    done = call("run", BUNDLE, tmp_path / name, "-o", tmp_path / "out", *more)
    assert done.returncode == code, done.stderr
    assert said in done.stderr
    assert "hint:" in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.glob("out/part-*"))
    assert not (tmp_path / "out" / "_SUCCESS").exists()


def test_files_without_rows_give_empty_parts(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b"")
    empty = pa.table({"text": pa.array([], pa.string()), "id": pa.array([], pa.int64())})
    pq.write_table(empty, tmp_path / "b.parquet")
    done = call("run", BUNDLE, tmp_path, "-o", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert "no rows in 2 of the inputs" in done.stdout
    assert len(list((tmp_path / "out").glob("part-*"))) == 2


@pytest.mark.parametrize(
    ("folder", "said"),
    [
        (Path("/nowhere/at/all"), "no such bundle"),
        (Path(__file__).parent, "give the folder that `engine export` wrote"),
    ],
)
def test_a_folder_that_is_no_bundle_is_named(
    folder: Path, said: str, numbers: Path, tmp_path: Path
) -> None:
    done = call("run", folder, numbers, "-o", tmp_path / "out")
    assert done.returncode == 1
    assert said in done.stderr


def test_inputs_in_a_bundles_place_are_told_theirs(numbers: Path, tmp_path: Path) -> None:
    done = call("run", numbers.parent, BUNDLE, "-o", tmp_path / "out")
    assert done.returncode == 1
    assert "this looks like a corpus; the bundle comes first, then the inputs" in done.stderr


def test_a_checkpoint_in_a_bundles_place_is_exported_once(numbers: Path, tmp_path: Path) -> None:
    pytest.importorskip("optimum.exporters.onnx")
    here = {**os.environ, "CORPUS_ENGINE_CACHE": str(tmp_path / "cache")}
    task = ("--task", "translation_es_to_pt")
    done = call("run", CHECKPOINT, numbers, "-o", tmp_path / "out", *task, env=here)
    assert done.returncode == 0, done.stderr
    assert "once" in done.stderr
    again = call("run", CHECKPOINT, numbers, "-o", tmp_path / "more", *task, env=here)
    assert again.returncode == 0
    assert "once" not in again.stderr
    one, other = (next((tmp_path / name).glob("part-*")) for name in ("out", "more"))
    assert one.read_bytes() == other.read_bytes()
    (bundle,) = (tmp_path / "cache/bundles").iterdir()
    wrong = call("run", bundle, numbers, "-o", tmp_path / "wrong", "--task", "ner")
    assert wrong.returncode == 2
    assert "is a bundle for translation" in wrong.stderr


@pytest.mark.parametrize(
    ("named", "message"),
    [
        (("-o", "out", "--workers", "-3"), "workers is -3"),
        (("-o", "hdfs://bucket/out"), "only local folders, s3://, gs:// and az:// are written"),
    ],
)
def test_settings_are_refused_before_a_checkpoint_is_looked_at(
    numbers: Path, tmp_path: Path, named: tuple[str, ...], message: str
) -> None:
    done = call("run", tmp_path / "no-checkpoint", numbers, *named)
    assert done.returncode == 2
    assert message in done.stderr


def test_tasks_tells_of_every_task_with_its_defaults() -> None:
    told = json.loads(call("tasks", "--json").stdout)
    assert len(told) == len(TASKS)
    assert all(option["help"] for task in told for option in task["options"])
    shown = call("tasks").stdout
    assert "--aggregation-strategy" in shown
    assert "ner" in shown
    # Each is an option of `engine run`, and no other.
    helped = call("run", "--help-all").stdout
    for task in told:
        for option in task["options"]:
            assert "--" + option["name"].replace("_", "-") in helped


def test_a_changed_byte_in_a_bundle_is_refused_by_name(numbers: Path, tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    for file in BUNDLE.iterdir():
        (bundle / file.name).write_bytes(file.read_bytes())
    graph = bundle / "step.onnx"
    content = bytearray(graph.read_bytes())
    content[1000] ^= 1
    graph.write_bytes(content)
    done = call("run", bundle, numbers, "-o", tmp_path / "out")
    assert done.returncode == 1
    assert "step.onnx" in done.stderr


def test_another_runs_folder_is_refused_and_can_be_cleared(numbers: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert call("run", BUNDLE, numbers, "-o", out).returncode == 0
    done = call("run", BUNDLE, numbers, "-o", out, "--max-new-tokens", "5")
    assert done.returncode == 2
    assert "--max-new-tokens" in done.stderr
    more = ("--max-new-tokens", "5", "--overwrite")
    assert call("run", BUNDLE, numbers, "-o", out, *more).returncode == 0
    assert call("verify", out).returncode == 0


def test_an_output_that_is_not_ours_is_left_alone(numbers: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "thesis.txt").write_text("years of work")
    for more in ([], ["--overwrite"]):
        done = call("run", BUNDLE, numbers, "-o", out, *more)
        assert done.returncode == 2
        assert "thesis.txt" in done.stderr or "left as it is" in done.stderr
    assert (out / "thesis.txt").read_text() == "years of work"


def test_an_output_that_cannot_be_written_says_so(numbers: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    done = call("run", BUNDLE, numbers, "-o", tmp_path / "file" / "out")
    assert done.returncode == 1
    assert "file: not a folder" in done.stderr


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_output_says_so(numbers: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir(mode=0o500)
    done = call("run", BUNDLE, numbers, "-o", out)
    assert done.returncode == 1
    assert "cannot be written" in done.stderr


@pytest.mark.parametrize(
    ("given", "said"),
    [((".", "--device", "tpu"), "'tpu'"), (("missing.jsonl",), "no such file")],
)
def test_what_is_wrong_is_said_before_a_model_is_looked_up(
    given: tuple[str, ...], said: str, tmp_path: Path
) -> None:
    done = call("run", "some-one/some-model", *given, "-o", tmp_path / "out", cwd=tmp_path)
    assert said in done.stderr
    assert "on the hub" not in done.stderr


def test_cuda_without_cuda_is_an_error(numbers: Path, tmp_path: Path) -> None:
    import onnxruntime

    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this onnxruntime has CUDA")
    done = call("run", BUNDLE, numbers, "-o", tmp_path / "out", "--device", "cuda")
    assert done.returncode == 1
    assert "corpus-engine[gpu]" in done.stderr


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[object], Path]:
    """A command that takes seconds, and the folder of a run of it that nobody stopped."""
    folder = tmp_path_factory.mktemp("whole")
    for name, count in (("a", 300), ("b", 6_000)):
        corpus.write(folder / name, count)
    inputs = [*sorted((folder / "a").iterdir()), *sorted((folder / "b").iterdir())]
    command = ["run", BUNDLE, *inputs, "--on-error", "reject", "--keep", "id", "--window", "256"]
    assert call(*command, "-o", folder / "out").returncode == 3
    return command, folder / "out"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_goes_on_to_the_same_bytes(
    whole: tuple[list[object], Path], number: int, tmp_path: Path
) -> None:
    command, never_stopped = whole
    out = tmp_path / "out"
    process = subprocess.Popen(
        [*ENGINE, *map(str, command), "-o", str(out)], stderr=subprocess.PIPE, text=True
    )
    while not list(out.glob("_manifest/part-*.json")) and process.poll() is None:
        time.sleep(0.02)
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 75, said
    assert "run the same command again" in said
    assert not (out / "_SUCCESS").exists()
    # A part counts once it is recorded: the signal may come between its name and its record.
    finished = len(list(out.glob("_manifest/part-*.json")))
    files = sorted(file.name for file in never_stopped.glob("part-*"))
    assert 0 < finished < len(files)
    done = call(*command, "-o", out, "--json")
    assert done.returncode == 3, done.stderr
    summary = json.loads(done.stdout)
    assert summary["splits_skipped"] == finished
    assert sorted(summary["files"]) == files
    for file in files:
        assert (out / file).read_bytes() == (never_stopped / file).read_bytes()
    assert call("verify", out).returncode == 0


def test_demo_answers_in_json(tmp_path: Path) -> None:
    done = call("demo", "--rows", "200", "-o", tmp_path, "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["accuracy"] >= 0.99
    assert found["rows_in"] == 200
    for name in ("rows_out", "rows_rejected", "seconds"):
        assert name in found


def test_doctor_and_tasks_tell(tmp_path: Path) -> None:
    found = json.loads(call("doctor", "--json").stdout)
    assert found["providers"]["CPUExecutionProvider"] == "loads"
    assert found["cores"] >= 1
    assert found["cuda"]["driver"]
    listed = {row["task"] for row in json.loads(call("tasks", "--json").stdout)}
    assert {"feature-extraction", "text-classification", "translation"} <= listed


def test_row_texts_stay_out_of_messages(tmp_path: Path) -> None:
    file = tmp_path / "n.jsonl"
    file.write_text('{"text": "uno"}\n{"text": "a secret"\n')
    done = call("run", BUNDLE, file, "-o", tmp_path / "out")
    assert "secret" not in done.stderr + done.stdout


@pytest.mark.parametrize("swallowed", [False, True], ids=["raised", "as an import's error"])
def test_an_interrupt_between_runs_ends_as_one_within(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], swallowed: bool
) -> None:
    def interrupted(path: Path) -> None:
        if not swallowed:
            raise KeyboardInterrupt
        monkeypatch.setattr("engine.cli.interrupt._received", [2])
        raise MissingDependency("onnxruntime is not installed", "pip install it")

    monkeypatch.setattr("engine.runtime.doctor.diagnose", interrupted)
    monkeypatch.setattr("engine.cli.interrupt.install", lambda: None)
    monkeypatch.setattr("os._exit", sys.exit)
    monkeypatch.setattr(sys, "argv", ["engine", "doctor"])
    with pytest.raises(SystemExit) as left:
        cli.main()
    assert left.value.code == 75
    assert capfd.readouterr().err == ("error: stopped\nhint: run the same command again to go on\n")


STUCK = """
import sys, time
from engine.bundle.tokenizer import Tokenizer

def stuck(*args, **kwargs):  # as a call into a library that nothing interrupts
    print("tokenizing", flush=True)
    time.sleep(3600)

Tokenizer.encode = stuck
from engine import cli
cli.main()
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_waits_for_no_call_into_a_library(tmp_path: Path, number: signal.Signals) -> None:
    file = tmp_path / "n.jsonl"
    file.write_text('{"text": "uno"}\n')
    arguments = ["run", str(BUNDLE), str(file), "-o", str(tmp_path / "out")]
    with subprocess.Popen(
        [sys.executable, "-c", STUCK, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout
        assert process.stdout.readline() == "tokenizing\n"
        process.send_signal(number)
        _, errors = process.communicate(timeout=120)
    assert process.returncode == 75
    assert "stopped with 0 of 1 parts finished" in errors
    assert call("run", BUNDLE, file, "-o", tmp_path / "out").returncode == 0


def test_answers_go_to_standard_output_and_the_summary_does_not(tmp_path: Path) -> None:
    file = tmp_path / "n.jsonl"
    file.write_text('{"id": 1, "text": "uno"}\n{broken\n{"id": 2, "text": "d\\"os"}\n')
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    run = ["run", BUNDLE, file, "--keep", "id", "--on-error", "reject", "-o", "-"]
    environment = {**os.environ, "TMPDIR": str(scratch)}
    done = call(*run, env=environment)
    assert done.returncode == 3, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["id"] for row in rows] == [1, 2]
    assert rows[0]["translation_text"] == "um"
    assert "3 rows in, 2 answered, 1 rejected" in done.stderr
    assert "1 broken_json" in done.stderr
    stream = subprocess.run(
        [*ENGINE, *map(str, run), "--format", "arrow"], capture_output=True, check=False
    )
    assert pa.ipc.open_stream(stream.stdout).read_all().to_pylist() == rows
    shell = " ".join(map(str, [*ENGINE, *run]))
    gone = subprocess.run(
        ["bash", "-c", f"{shell} | true; exit ${{PIPESTATUS[0]}}"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert gone.returncode == 3
    assert "Broken" not in gone.stderr
    refused = call(*run, "--format", "csv", "--compression", "lz4")
    assert refused.returncode == 2
    assert "compression is lz4" in refused.stderr
    assert list(scratch.glob("engine-run-*")) == [], "the work folder is gone"


def test_convert_and_a_reader_that_stops_early(numbers: Path, tmp_path: Path) -> None:
    call("run", BUNDLE, numbers, "-o", tmp_path / "out", "--keep", "id")
    done = call("convert", tmp_path / "out", "--to", "csv", "-o", tmp_path / "new")
    assert done.stdout == f"40 rows in 1 parts in {tmp_path / 'new'} (0 were already done)\n"
    again = call("convert", tmp_path / "out", "--to", "csv", "-o", tmp_path / "new", "--json")
    assert json.loads(again.stdout)["parts_skipped"] == 1
    assert call("convert", tmp_path / "out", "--to", "x", "-o", tmp_path / "y").returncode == 2
    shell = " ".join([*ENGINE, "head", str(tmp_path / "new"), "-n", "40"])
    stopped = subprocess.run(
        ["bash", "-c", f"{shell} | true; exit ${{PIPESTATUS[0]}}"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (stopped.returncode, stopped.stderr) == (0, "")


def test_types_that_do_not_unify_are_given_in_a_file_whatever_its_name(tmp_path: Path) -> None:
    folder, out = tmp_path / "corpus", tmp_path / "out"
    folder.mkdir()
    (folder / "a.jsonl").write_text('{"text": "7", "id": 1}')
    (folder / "b.jsonl").write_text('{"text": "8", "id": "x"}\n{"text": "9", "id": [1]}')
    command = ("run", BUNDLE, folder, "-o", out, "--keep", "id", "--on-error", "reject")
    refused = call(*command)
    assert refused.returncode == 2
    assert '--schema, such as {"id": "string"} in a JSON file' in refused.stderr
    first, second = tmp_path / "one.json", tmp_path / "two.json"
    for path in (first, second):
        path.write_text('{"id": "string"}')
    assert call(*command, "--schema", first).returncode == 3
    assert engine.open(out).to_table().column("id").to_pylist() == ["1", "x"]
    shown = json.loads(call("rejects", out).stdout)
    assert (shown["row"], shown["column"]) == (1, "id")
    assert (shown["expected"], shown["found"]) == ("text", "list")
    assert "2 were already done" in call(*command, "--schema", second).stdout
