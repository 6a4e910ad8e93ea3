"""The benchmarks' report of an awkward result, and the ceilings on sizes that take no time."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any
from xml.etree import ElementTree

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
SVG = "{http://www.w3.org/2000/svg}"


def opened(name: str) -> ModuleType:
    """A script of benchmarks/, which is no package."""
    spec = importlib.util.spec_from_file_location(f"benchmarks_{name}", BENCHMARKS / f"{name}.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


report = opened("report")
plots = opened("plots")


def contestant(seconds: list[float], **more: Any) -> dict[str, Any]:
    return {
        "versions": {"package": "1.2.3"},
        "setting": {"batch_size": 32, "labels": ["a", "b", "c"]},
        "seconds": seconds,
        "rows_per_second": 1234.5,
        "tokens_per_second": 98765.4,
        "spread": 0.031,
        "startup_seconds": 2.5,
        "peak_bytes": 300 << 20,
        "differs": 0,
        **more,
    }


@pytest.fixture
def result() -> dict[str, Any]:
    """One workload with every field, one with few, one skipped."""
    mixed = {
        "told": "texts | of <mixed> lengths",
        "task": "feature-extraction",
        "rows": 160,
        "tokens": 8320,
        "output_tokens": 0,
        "operations": 40e9,
        "lengths": {"input": {"min": 3, "median": 40, "mean": 52.0, "p95": 130, "max": 256}},
        "options": {},
        "rounds": 3,
        "reference": "loop fp32",
        "contestants": {
            "engine fp32": contestant([1.0, 1.1, 0.9], cosine=None),
            "engine int8": contestant([0.5, 0.5, 0.5], differs=7, cosine=0.9973),
            "loop fp32": contestant([4.0, 4.1, 3.9], cosine=1.0),
            "quick bf16": contestant([0.4, 0.41, 0.4], differs=3),
            "unmatched fp32": contestant([2.0, 2.0, 2.0]),
            "openvino bf16": {"skipped": "this CPU has no bf16 arithmetic"},
            "fastembed fp32": {"failed": "RuntimeError: a | b\n<c> " + 400 * "x"},
        },
        "ratios": {
            "engine fp32": {
                "loop fp32": {"median": 4.0, "rounds": [3.9, 4.0, 4.33]},
                "quick bf16": {"median": 0.4, "rounds": [0.37, 0.4, 0.44]},
            },
            "engine int8": {
                "loop fp32": {"median": 8.0, "rounds": [7.8, 8.0, 8.2]},
                "quick bf16": {"median": 0.8, "rounds": [0.8, 0.82, 0.8]},
            },
        },
        "stages": {"read": 0.01, "tokenize": 0.2, "infer": 1.7, "write": 0.0},
        "sweep": [
            {"batch_tokens": 512, "workers": 1, "threads": 2, "tokens_per_second": 8000.0},
            {"batch_tokens": 1024, "workers": 1, "threads": 2, "tokens_per_second": 9000.0},
            {"batch_tokens": 512, "workers": 2, "threads": 1, "tokens_per_second": 8500.0},
            {"batch_tokens": 1024, "workers": 2, "threads": 1, "failed": "out of memory"},
        ],
    }
    sparse = {
        "told": "greedy",
        "task": "translation",
        "rows": 2,
        "tokens": 10,
        "output_tokens": 12,
        "operations": 0,
        "rounds": 1,
        "contestants": {
            "engine fp32": contestant([0.0]),
            "tiny": contestant([0.0], versions={}, setting={}, differs=2),
        },
        "ratios": {"engine fp32": {"tiny": {"median": 0.9975}}},
    }
    return {
        "machine": {
            "date": "2026-11-23",
            "cpu": "Some CPU",
            "cpu_features": ["avx2"],
            "cores": 2,
            "python": "3.11.7",
            "versions": {"onnxruntime": "1.31.1"},
        },
        "ceiling": {
            "fp32_gflops": 80.0,
            "int8_gops": 320.0,
            "int8_kind": "u8×u8",
            "read_gb_per_second": 19.5,
            "tokenizer_tokens_per_second": 336_002,
            "threads": 2,
        },
        "workloads": {
            "encode-mixed": mixed,
            "translate": sparse,
            "translate-real": {"skipped": "needs --models"},
        },
    }


def row(text: str, name: str) -> list[str]:
    """The cells of the last table row that begins with a name."""
    lines = [line for line in text.splitlines() if line.startswith(f"| {name} ")]
    return [cell.strip() for cell in lines[-1].strip("|").split(" | ")]


def overview(text: str, name: str) -> list[str]:
    return row(text.partition("\n## ")[0], name)


def test_the_first_line_says_where_it_was_measured(result: dict[str, Any]) -> None:
    first = report.table(result).splitlines()[0]
    for fact in (
        "2026-11-23", "Some CPU (avx2)", "2 cores", "Python 3.11.7", "onnxruntime 1.31.1",
        "80.0 GFLOP/s", "320 GOP/s (u8×u8)", "19.5 GB/s", "336,002 tokens/s",
    ):  # fmt: skip
        assert fact in first


def test_the_overview_compares_with_the_fastest_peer(result: dict[str, Any]) -> None:
    cells = overview(report.table(result), "encode-mixed")
    assert cells[1:3] == ["98,765 tokens/s"] * 2
    assert cells[3:6] == ["quick bf16 †", "98,765 tokens/s", "**0.80** (int8)"]
    assert cells[6] == "engine int8 7, quick bf16 3 of 160"
    # 40 billion operations in a second are half of 80, in half a second a quarter of 320.
    assert cells[7] == "fp32 50%, int8 25%"


def test_an_engine_variant_that_did_not_run_leaves_a_dash(result: dict[str, Any]) -> None:
    cells = overview(report.table(result), "translate")
    assert cells[1:3] == ["98,765 tokens/s", "–"]
    assert cells[5:] == ["**0.998** (fp32)", "tiny 2 of 2", "–"]


def test_every_contestant_has_its_figures(result: dict[str, Any]) -> None:
    text = report.table(result).partition("\n## translate")[0]
    assert row(text, "loop fp32") == [
        "loop fp32", "batch_size 32, labels (3)", "4.00", "3.1%", "1,234", "98,765",
        "4.00 (3.90 to 4.33)", "8.00 (7.80 to 8.20)", "reference", "2.50", "300",
    ]  # fmt: skip
    lost = row(text, "quick bf16 †")
    assert lost[6:9] == ["**0.40** (0.37 to 0.44)", "**0.80** (0.80 to 0.82)", "3 of 160"]
    assert row(text, "engine int8 †")[6:9] == ["", "", "7 of 160 (mean cosine 0.99730)"]
    assert row(text, "unmatched fp32")[6:8] == ["", ""]


def test_a_page_gets_the_summary_between_its_markers(result: dict[str, Any]) -> None:
    before, behind = "# Page\n<!-- table -->\n", "<!-- end of table -->\nThe end\n"
    page = report.put_into(f"{before}yesterday{behind}", result)
    assert page.startswith(before)
    assert page.endswith(behind)
    assert "yesterday" not in page
    assert "### encode-mixed" in page
    assert "### translate" in page
    assert page.count("| contestant |") == 2
    assert report.put_into(page, result) == page


def test_an_entry_without_figures_has_its_reason_in_one_line(result: dict[str, Any]) -> None:
    lines = report.table(result).splitlines()
    assert "- translate-real: skipped, needs --models" in lines
    assert "- openvino bf16: skipped, this CPU has no bf16 arithmetic" in lines
    failed = next(line for line in lines if line.startswith("- fastembed fp32: failed"))
    assert "RuntimeError: a \\| b \\<c\\> xxx" in failed
    assert failed.endswith("…")
    assert len(failed) < 320


def test_all_rows_of_a_table_have_as_many_cells_as_its_head(result: dict[str, Any]) -> None:
    for block in report.table(result).split("\n\n"):
        if block.startswith("|"):
            counts = {line.replace("\\|", "").count("|") for line in block.splitlines()}
            assert len(counts) == 1


def test_plots_are_well_formed_and_labelled(result: dict[str, Any], tmp_path: Path) -> None:
    files = plots.plots(result, tmp_path)
    assert [file.name for file in files] == ["ratios.svg", "budget.svg", "stages.svg"]
    labels = {}
    for file in files:
        root = ElementTree.parse(file).getroot()
        assert root.tag == f"{SVG}svg"
        labels[file.stem] = [text.text for text in root.iter(f"{SVG}text")]
    assert {"0.80 int8 †", "8.00 int8 †", "0.998 fp32", "quick bf16 †"} <= set(labels["ratios"])
    assert {"1 worker × 2 threads", "2 workers × 1 thread", "512", "1,024"} <= set(labels["budget"])
    assert {"tokenize", "1.70", "1.91 s"} <= set(labels["stages"])


def test_bars_of_a_loss_have_another_colour(result: dict[str, Any], tmp_path: Path) -> None:
    ratios = result["workloads"]["encode-mixed"]["ratios"]
    svg = plots.plots(result, tmp_path)[0].read_text(encoding="utf-8")
    ratios["engine int8"]["quick bf16"]["median"] = 1.1
    faster = plots.plots(result, tmp_path)[0].read_text(encoding="utf-8")
    assert svg.count(plots._LOSS) == faster.count(plots._LOSS) + 1
    assert svg.count(plots._WIN) == faster.count(plots._WIN) - 1


@pytest.mark.parametrize("ratio", [0.0, 0.001, 1.0, 5000.0])
def test_extreme_ratios_stay_within_the_plot(
    ratio: float, result: dict[str, Any], tmp_path: Path
) -> None:
    result["workloads"]["translate"]["ratios"]["engine fp32"]["tiny"]["median"] = ratio
    root = ElementTree.parse(plots.plots(result, tmp_path)[0]).getroot()
    for bar in root.iter(f"{SVG}rect"):
        x, wide = float(bar.attrib["x"]), float(bar.attrib["width"])
        assert x >= 0
        assert x + wide <= plots.WIDTH


def test_names_are_escaped_in_plots(result: dict[str, Any], tmp_path: Path) -> None:
    workloads = result["workloads"]
    workloads["<a> & b"] = workloads.pop("encode-mixed")
    for file in plots.plots(result, tmp_path):
        texts = [text.text for text in ElementTree.parse(file).getroot().iter(f"{SVG}text")]
        assert "<a> & b" in texts


@pytest.mark.parametrize(
    "empty", [{}, {"workloads": {"ner": {"skipped": "why"}}}, {"workloads": {"ner": {}}}]
)
def test_an_empty_result_is_no_error(empty: dict[str, Any], tmp_path: Path) -> None:
    assert report.table(empty).startswith("no date, unknown CPU")
    assert plots.plots(empty, tmp_path) == []


def test_a_workload_where_only_the_engine_ran(result: dict[str, Any], tmp_path: Path) -> None:
    mixed = result["workloads"]["encode-mixed"]
    mixed["contestants"] = {"engine fp32": mixed["contestants"]["engine fp32"]}
    mixed["ratios"] = {"engine fp32": {}}
    result["workloads"] = {"encode-mixed": mixed}
    cells = overview(report.table(result), "encode-mixed")
    assert cells[2:6] == ["–", "–", "–", "none"]
    assert [file.name for file in plots.plots(result, tmp_path)] == ["budget.svg", "stages.svg"]


def test_the_command_writes_the_same_bytes_again(result: dict[str, Any], tmp_path: Path) -> None:
    file = tmp_path / "cpu.json"
    file.write_text(json.dumps(result), encoding="utf-8")
    written = []
    for folder in ("a", "b"):
        command = [sys.executable, BENCHMARKS / "report.py", file, "-o", tmp_path / folder]
        subprocess.run(command, check=True, capture_output=True)
        files = [f for f in (tmp_path / folder).rglob("*") if f.is_file()]
        written.append({f.name: f.read_bytes() for f in files})
    assert written[0] == written[1]
    assert set(written[0]) == {"cpu.md", "ratios.svg", "budget.svg", "stages.svg"}
    assert written[0]["cpu.md"].decode() == report.table(result)


def test_a_result_that_cannot_be_read_gives_no_traceback(tmp_path: Path) -> None:
    command = [sys.executable, str(BENCHMARKS / "report.py"), str(tmp_path / "none.json")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


def test_ceilings_of_small_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnx")
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    monkeypatch.delenv("RAYON_NUM_THREADS", raising=False)
    found = opened("ceiling").measure(
        1, shapes=[(32, 64, 48), (16, 32, 8)], read_bytes=1 << 16, texts=20, seconds=0
    )
    assert found["threads"] == 1
    assert found["fp32_gflops"] >= 0
    assert found["int8"]["u8×u8"]["exact"]
    assert found["int8"]["u8×s7"]["exact"]
    assert found["int8"][found["int8_kind"]] == {"gops": found["int8_gops"], "exact": True}
    assert found["read_gb_per_second"] >= 0
    assert found["tokenizer_tokens_per_second"] > 0
    assert "RAYON_NUM_THREADS" not in os.environ
