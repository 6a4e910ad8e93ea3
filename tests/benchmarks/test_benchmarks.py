"""The benchmarks' harness, end to end, with made-up peers."""

from __future__ import annotations

import json
import re
import sys
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import own_corpus
import pyarrow as pa
import pytest
import worker
from answers import compare
from contest import ENGINE, Contestant, adapters, contest, ratios

from engine.demo import BUNDLE
from engine.demo.numerals import spanish
from engine.errors import SettingsError

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
PEERS = adapters(BENCHMARKS / "peers")
ROWS = ["translate Spanish to Portuguese: siete", "translate Spanish to Portuguese: dos mil"]
TRUE = ["sete", "dois mil"]
FAKE = '''
"""A made-up peer."""
PACKAGES = ("pyarrow",)
ENV = "none"
TASKS = ("translation",)
PAUSES = [{"pause": 0.02}, {"pause": 0.0}]
VARIANTS = {"right": PAUSES, "wrong": [{}], "absent": [{}], "broken": [{}], "mute": [{}]}

def skip(job):
    return "no such arithmetic" if job.get("variant") == "absent" else ""

def load(job, setting):
    import time
    answers = dict(zip(job["asked"], job["answers"]))
    def call(rows):
        print("libraries print what they like")
        time.sleep(setting.get("pause", 0.0))
        if "pause" not in setting and job["variant"] == "broken":
            raise RuntimeError("out of luck")
        found = [answers[text] for text in rows["text"]]
        if job["variant"] == "mute":
            return [object() for text in found]
        return found[:-1] + ["outra coisa"] if job["variant"] == "wrong" else found
    return call
'''


@pytest.fixture
def job(tmp_path: Path) -> dict[str, Any]:
    table = pa.table({"text": ROWS})
    file = tmp_path / "rows.arrow"
    with pa.OSFile(str(file), "wb") as out, pa.ipc.new_file(out, table.schema) as writer:
        writer.write_table(table)
    return {
        "task": "translation",
        "columns": ["text"],
        "file": str(file),
        "bundle": str(BUNDLE),
        "checkpoint": "",
        "cache": str(tmp_path / "cache"),
        "threads": 1,
        "max_length": 64,
        "options": {},
        "asked": ROWS,
        "answers": TRUE,
    }


@pytest.fixture
def fake(tmp_path: Path) -> Path:
    folder = tmp_path / "peers"
    folder.mkdir()
    (folder / "fake.py").write_text(FAKE, encoding="utf-8")
    return folder / "fake.py"


def test_a_contest_end_to_end(job: dict[str, Any], fake: Path, tmp_path: Path) -> None:
    ours = Contestant("engine fp32", ENGINE, "fp32", job=job)
    others = [
        Contestant(f"fake {v}", fake, v, job={**job, "variant": v})
        for v in ("right", "wrong", "absent", "broken", "mute")
    ]
    lines: list[str] = []
    result = contest(
        [ours, *others], tmp_path, rows=2, tokens=20, rounds=3, reference="engine fp32",
        progress=lines.append,
    )  # fmt: skip
    contestants = result["contestants"]
    assert list(contestants) == [
        "engine fp32", "fake right", "fake wrong", "fake absent", "fake broken", "fake mute"
    ]  # fmt: skip
    assert contestants["engine fp32"]["differs"] == contestants["fake right"]["differs"] == 0
    assert contestants["fake wrong"]["differs"] == 1
    assert contestants["fake absent"] == {"skipped": "no such arithmetic"}
    assert contestants["fake broken"]["failed"].startswith("RuntimeError: out of luck")
    assert contestants["fake mute"]["failed"].startswith("ArrowInvalid")
    assert contestants["fake right"]["setting"] == {"pause": 0.0}
    assert len(contestants["fake right"]["tried"]) == 2
    assert all(len(contestants[name]["seconds"]) == 3 for name in list(contestants)[:3])
    assert contestants["engine fp32"]["peak_bytes"] > 2**20
    assert list(result["ratios"]["engine fp32"]) == ["fake right", "fake wrong"]
    assert result["rounds"] == 3
    assert any("round 3 of 3" in line for line in lines)


def test_an_adapter_may_choose_its_settings_by_the_job(
    job: dict[str, Any], fake: Path, tmp_path: Path
) -> None:
    chooses = (
        "def settings(job, variant):\n    return [{'pause': 0.0, 'for': job['task'] + variant}]\n"
    )
    fake.write_text(FAKE + chooses, encoding="utf-8")
    one = Contestant("fake", fake, "right", job={**job, "variant": "right"})
    found = contest([one], tmp_path, rows=2, tokens=20, rounds=1)["contestants"]["fake"]
    assert found["setting"] == {"pause": 0.0, "for": "translationright"}


def test_a_peer_whose_process_ends_at_once_has_failed(job: dict[str, Any], tmp_path: Path) -> None:
    gone = tmp_path / "gone.py"
    gone.write_text("raise SystemExit(3)\n", encoding="utf-8")
    result = contest([Contestant("gone", gone, "x", job=job)], tmp_path, rows=2, tokens=2, rounds=1)
    assert "its process ended" in result["contestants"]["gone"]["failed"]
    assert result["ratios"] == {}


def test_peers_in_the_same_environment(job: dict[str, Any], fake: Path, tmp_path: Path) -> None:
    (fake.parent / "elsewhere.py").write_text(
        FAKE.replace('("pyarrow",)', '("no-such-package",)'), encoding="utf-8"
    )
    found = own_corpus.compare_with_peers(
        bundle=BUNDLE, file=Path(job["file"]), checkpoint=tmp_path, folder=fake.parent, rounds=1
    )
    assert found["contestants"]["elsewhere"] == {"skipped": "no-such-package is not installed"}
    assert found["contestants"]["engine fp32"]["differs"] == 0
    with pytest.raises(SettingsError, match="no adapters"):
        own_corpus.compare_with_peers(
            bundle=BUNDLE, file=Path(job["file"]), checkpoint=tmp_path, folder=tmp_path
        )


def test_the_engine_is_no_peer_of_its_own() -> None:
    assert ENGINE.is_file()
    assert "engine" not in PEERS
    assert "transformers_loop" in PEERS


@pytest.fixture
def numbers(tmp_path: Path) -> Path:
    file = tmp_path / "numbers.jsonl"
    rows = [json.dumps({"text": spanish(n)}) for n in range(40)]
    file.write_text("\n".join(rows), encoding="utf-8")
    return file


def own_corpus_main(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> None:
    monkeypatch.setattr(sys, "argv", ["own_corpus.py", *map(str, arguments)])
    own_corpus.main()


def test_peers_get_the_rows_of_your_own(
    numbers: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    call: dict[str, Any] = {}

    def compare_with_peers(**arguments: Any) -> dict[str, Any]:
        rows = pa.ipc.open_file(pa.OSFile(str(arguments["file"]))).read_all()["text"].to_pylist()
        call.update(arguments, rows=rows)
        arguments["progress"]("peer fp32 is loading")
        figures = {"rows_per_second": 5.0, "tokens_per_second": 50.0, "differs": 0}
        return {
            "reference": "engine fp32",
            "contestants": {
                "engine fp32": {"seconds": [1.0, 2.0], **figures},
                "peer fp32": {"seconds": [3.0, 6.0], **figures, "differs": 2},
                "peer bf16": {"skipped": "this CPU has no bf16"},
                "other fp32": {"failed": "it broke\nhint: look"},
            },
            "ratios": {"engine fp32": {"peer fp32": {"median": 3.0, "rounds": [3.0, 3.0]}}},
        }

    monkeypatch.setattr(own_corpus, "compare_with_peers", compare_with_peers)
    arguments = [BUNDLE, numbers, "--limit", 7, "--rounds", 1, "--peers", tmp_path]
    arguments += ["--checkpoint", tmp_path, "--option", "max_new_tokens=4"]
    own_corpus_main(monkeypatch, *arguments)
    printed = capsys.readouterr()
    assert call["bundle"] == BUNDLE
    assert call["rows"] == [spanish(n) for n in range(7)]
    assert (call["checkpoint"], call["folder"], call["rounds"]) == (tmp_path, tmp_path, 1)
    assert (call["max_length"], call["options"]) == (0, {"max_new_tokens": 4})
    assert 7 < call["tokens"] <= 7 * 4
    assert "peer fp32 is loading" in printed.err
    lines = {line.split("  ")[0]: line for line in printed.out.splitlines()}
    assert lines["peer fp32"].split()[2:] == ["4.50", "5.0", "50", "2", "3.00×", "as", "fast"]
    assert lines["peer bf16"].endswith("skipped: this CPU has no bf16")
    assert lines["other fp32"].endswith("failed: it broke")
    own_corpus_main(monkeypatch, *arguments, "--json")
    printed = capsys.readouterr()
    assert json.loads(printed.out)["contestants"]["peer fp32"]["differs"] == 2
    assert printed.err == ""


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (["--checkpoint", "nowhere"], "--checkpoint is 'nowhere', which is not a folder"),
        (["--peers", "nowhere"], "--peers is 'nowhere', which is not a folder"),
        (["--option", "num_beams"], "--option is 'num_beams'"),
        (["--option", "targets=a"], "'targets'"),
    ],
)
def test_a_wrong_argument_ends_with_a_hint(
    wrong: list[str],
    message: str,
    numbers: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    arguments = [BUNDLE, numbers, "--checkpoint", tmp_path, "--peers", tmp_path, *wrong]
    with pytest.raises(SystemExit) as ended:
        own_corpus_main(monkeypatch, *arguments)
    assert ended.value.code == 2
    printed = capsys.readouterr().err
    assert message in printed
    assert "hint: " in printed


def test_answers_that_differ_are_counted() -> None:
    assert compare(["a", "b"], ["a", "c"]) == {"differs": 1, "cosine": None}
    assert compare(["a", "b"], ["a"])["differs"] == 1
    near, far, none = [1.0, 0.001], [0.0, 1.0], [float("nan"), 0.0]
    found = compare([[1.0, 0.0]] * 4, [near, far, none, [1.0]])
    assert found["differs"] == 3


def test_ratios_are_computed_round_by_round() -> None:
    seconds = {"engine fp32": [1.0, 2.0, 4.0], "peer": [2.0, 2.0, 2.0]}
    assert ratios(seconds) == {"engine fp32": {"peer": {"median": 1.0, "rounds": [2.0, 1.0, 0.5]}}}


@pytest.mark.parametrize("file", PEERS.values(), ids=PEERS)
def test_an_adapter_is_small_and_complete(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    assert len(text.splitlines()) < 60
    module = worker.load_adapter(file)
    assert callable(module.load)
    assert module.PACKAGES
    assert set(module.TASKS) <= set(worker.load_adapter(ENGINE).TASKS)
    assert (BENCHMARKS / "envs" / f"{module.ENV}.txt").is_file()
    assert all(1 <= len(settings) <= 4 for settings in module.VARIANTS.values())


def test_openvino_decodes_in_one_worker() -> None:
    module = worker.load_adapter(BENCHMARKS / "peers/openvino.py")
    chosen = {
        t: module.settings({"task": t}, "fp32") for t in ("translation", "token-classification")
    }
    workers = {task: {each["workers"] for each in settings} for task, settings in chosen.items()}
    assert workers == {"translation": {1}, "token-classification": {2}}


@pytest.mark.parametrize("file", sorted((BENCHMARKS / "envs").glob("*.txt")), ids=lambda f: f.stem)
def test_environments_are_pinned(file: Path) -> None:
    lines = file.read_text(encoding="utf-8").splitlines()
    requirements = [line for line in lines if line and not line.startswith(("#", "-"))]
    assert requirements
    assert all(re.fullmatch(r"[\w.-]+(\[[\w,-]+\])?==[\w.+]+", r) for r in requirements)


@pytest.fixture
def prepare(monkeypatch: pytest.MonkeyPatch) -> Any:
    pytest.importorskip("optimum.exporters.onnx")
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import prepare

    yield prepare
    for name in ("prepare", "models", "texts", "workloads"):
        sys.modules.pop(name, None)


def test_texts_have_the_lengths_they_say(prepare: Any) -> None:
    lengths = prepare.texts.Lengths(20, 0.5, 4, 60)
    drawn = lengths.draw(500, 0)
    assert lengths.draw(500, 0) == drawn
    assert min(drawn) >= 4
    assert max(drawn) <= 60
    assert 17 < sorted(drawn)[250] < 23
    texts = prepare.texts.cut(prepare.texts.words([]), drawn)
    assert [len(text.split()) for text in texts] == drawn


@pytest.mark.parametrize("kind", ["t5", "gpt2"])
def test_a_checkpoint_that_counts_down_ends_where_it_should(
    prepare: Any, tmp_path: Path, kind: str
) -> None:
    """With two layers; the rest is the same."""
    import workloads
    from transformers import (
        AutoModelForCausalLM,
        AutoModelForSeq2SeqLM,
        AutoTokenizer,
        GPT2Config,
        T5Config,
    )

    patched = pytest.MonkeyPatch()
    small = {"num_layers": 2, "num_decoder_layers": 2} if kind == "t5" else {"n_layer": 2}
    config = T5Config if kind == "t5" else GPT2Config
    patched.setattr(
        f"transformers.{config.__name__}", lambda **settings: config(**settings, **small)
    )
    sources = prepare.Sources(tmp_path)
    lengths = sorted(prepare.texts.Lengths(12, 0.5, 4, 30).draw(prepare.models.SENTINELS, 0))
    folder = prepare._checkpoint(kind, lengths, sources)
    patched.undo()
    workload = workloads.WORKLOADS["translate" if kind == "t5" else "generate"]
    rows, outputs = prepare._rows(workload, 6, lengths, folder, sources)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    auto = AutoModelForSeq2SeqLM if kind == "t5" else AutoModelForCausalLM
    model = auto.from_pretrained(folder).eval()
    for beams in (1, 4):
        for row, length in zip(rows, outputs, strict=True):
            inputs = tokenizer(row, return_tensors="pt")
            tokens = model.generate(**inputs, max_new_tokens=64, num_beams=beams, do_sample=False)
            start = 1 if kind == "t5" else inputs.input_ids.shape[1]
            assert tokens.shape[1] - start == length


def test_a_language_model_that_follows_its_chain(prepare: Any, tmp_path: Path) -> None:
    """A small one; no answer of 64 tokens ends before."""
    import workloads
    from transformers import AutoModelForCausalLM

    models = prepare.models
    tokenizer = models.bytes_bpe(islice(prepare.texts.words([]), 60_000))
    small = {
        "vocab_size": len(tokenizer), "hidden_size": 192, "intermediate_size": 400,
        "num_hidden_layers": 2, "num_attention_heads": 3, "num_key_value_heads": 1,
    }  # fmt: skip
    folder = models.qwen2(tmp_path / "qwen2", tokenizer, **small)
    workload = workloads.WORKLOADS["generate-llm"]
    sources = prepare.Sources(tmp_path)
    rows, outputs = prepare._rows(workload, 3, [64] * models.SENTINELS, folder, sources)
    assert outputs == [64] * 3
    model = AutoModelForCausalLM.from_pretrained(folder, dtype="float32").eval()
    chain = models.words_of(tokenizer, 2 * models.CHAIN)
    for row in rows:
        inputs = tokenizer(row, return_tensors="pt")
        tokens = model.generate(**inputs, max_new_tokens=64, do_sample=False)[0]
        at = chain.index(int(inputs.input_ids[0, -1])) + 1
        assert tokens[inputs.input_ids.shape[1] :].tolist() == chain[at : at + 64]


def test_names_of_a_checkpoint_in_llama_cpp(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS / "peers"))
    import _gguf

    assert _gguf.named("model.embed_tokens.weight") == "token_embd.weight"
    assert _gguf.named("model.norm.weight") == "output_norm.weight"
    assert _gguf.named("model.layers.3.self_attn.q_proj.bias") == "blk.3.attn_q.bias"
    assert _gguf.named("model.layers.11.mlp.down_proj.weight") == "blk.11.ffn_down.weight"


@pytest.fixture
def gpu(prepare: Any) -> Any:
    import gpu

    yield gpu
    for name in ("gpu", "machine"):
        sys.modules.pop(name, None)


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("gpu") / "work"


def measured_on(
    device: str, gpu: Any, work: Path, monkeypatch: pytest.MonkeyPatch, *parts: str
) -> Any:
    """Every part, or some, with small shapes and one round."""
    out = work.with_name(f"{device}.json")
    arguments = ["--device", device, "--quick", "--rounds", "1", "--work", str(work)]
    arguments += ["--parts", *parts] if parts else []
    monkeypatch.setattr(sys, "argv", ["gpu.py", *arguments, "--out", str(out)])
    gpu.main()
    return json.loads(out.read_text())


def test_the_command_for_a_gpu_works_on_a_cpu(
    gpu: Any, work: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Against torch and transformers."""
    found = measured_on("cpu", gpu, work, monkeypatch)
    assert "greedy tokens/s: " in capsys.readouterr().out
    assert found["ran"]["provider"] == "CPUExecutionProvider"
    assert {e["model"] for e in found["encode"]} == {"bert-base", "minilm"}
    assert {d["beams"] for d in found["decode"]} == {1, 4}
    for one in (*found["encode"], *found["decode"]):
        assert all(rate > 0 for rate in one["tokens_per_second"].values())
    assert {"session", "run", "torch"} <= found["encode"][0]["seconds"].keys()
    assert {"engine", "transformers"} <= found["decode"][0]["seconds"].keys()
    reached = {one["what"]: one["reached"] for one in found["targets"]}
    for what in ("greedy rows equal to fp32 on the CPU", "worst cosine to fp32", "labels equal"):
        assert reached[what] is True
    assert found["several"]["parts_equal"] == found["several"]["parts"] == 8
    # What was not measured has no verdict.
    assert reached["BERT-base at 128, share of the peak"] is None
    assert work.joinpath("quick/t5-small/fp16/encoder.packed.onnx").exists()


def test_the_command_for_a_gpu_works_on_a_fake_one(
    gpu: Any, work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without peers and processes: neither torch nor another process sees the fake GPU."""
    from support.fake_cuda import H100, carried, pretend

    from engine.bundle import format as bundle_format
    from engine.runtime import sessions

    gpu.prepare(gpu.Bench(work / "quick", "cpu", 1, quick=True))
    pretend(monkeypatch)
    monkeypatch.setattr(sessions, "check_nodes", lambda *given: None)
    monkeypatch.setattr(gpu, "_module", lambda name: None)
    here = bundle_format.BundleFolder.graphs_for
    monkeypatch.setattr(
        bundle_format.BundleFolder,
        "graphs_for",
        lambda folder, device: here(folder, device) if not device.is_gpu else carried(folder, here),
    )
    found = measured_on("cuda", gpu, work, monkeypatch, *gpu.PARTS[:4])
    assert found["ran"]["provider"] == "CUDAExecutionProvider"
    assert found["gpus"] == [H100.name]
    assert found["parity"]["greedy_rows_equal"] == found["parity"]["labels_equal"] == 1
    for case in found["decode"]:
        assert case["steps"] > 0
        assert 0 < case["host_share"] < 1
    assert {e["run_against_session"] is not None for e in found["encode"]} == {True}


def test_an_adapter_is_not_mistaken_for_its_package(
    gpu: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tmp_path.joinpath("no_such_package.py").touch()
    monkeypatch.syspath_prepend(str(tmp_path))
    assert gpu._module("no_such_package") is None
    assert gpu._module("pyarrow") is pa


def test_a_run_end_to_end_lasts_a_while(gpu: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = iter([0.0, 0.5, 0.5, 60.0])
    monkeypatch.setattr(gpu, "time", SimpleNamespace(perf_counter=lambda: next(ticks)))
    assert gpu._copies(lambda: None) == round(gpu.LASTING / 0.5)
    assert gpu._copies(lambda: None) == 1


def test_ratios_of_the_gpu_s_figures(gpu: Any) -> None:
    seconds = {"torch": [3.0, 2.0, 4.0], "session": [1.0, 1.0, 2.0]}
    assert gpu._ratio(seconds, "torch", "session") == 2.0
    assert gpu._ratio(seconds, "ctranslate2", "session") is None
    assert gpu._rates(seconds, 6) == {"torch": 2.0, "session": 6.0}
    assert gpu._share(4e12, 2.0, 10.0) == 0.2
    assert gpu._share(4e12, 2.0, 0.0) is None
    assert [gpu._holds(*one) for one in ((1, ">=", 1), (2, "<=", 1), (None, ">=", 1))] == [
        True, False, None,
    ]  # fmt: skip
