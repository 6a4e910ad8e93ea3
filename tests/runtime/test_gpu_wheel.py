"""The real onnxruntime-gpu where there is no GPU, and on a pretended one.

On request, since it fetches 256 MB: ENGINE_TEST_GPU_WHEEL=1, with a C compiler. What the CUDA
provider does with the engine's graphs it does here, too, up to the kernels themselves: which nodes
it takes, which attention it chooses, what it copies and waits for, whether a step can be captured.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support import checkpoints

from engine.bundle import format as bundle_format
from engine.bundle.format import SYNC_EVERY

if not os.environ.get("ENGINE_TEST_GPU_WHEEL"):
    pytest.skip("on request: ENGINE_TEST_GPU_WHEEL=1", allow_module_level=True)
pytest.importorskip("optimum.exporters.onnx")

from engine.export import export, quantize

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
PRETENDED = HERE / "pretended"
DECODERS = {
    name: checkpoints.GENERATORS[name]
    for name in ("t5", "bart", "marian", "nllb", "pegasus", "gpt2", "opt")
}
ENCODERS = ("bert", "distilbert", "roberta", "albert", "mpnet", "deberta-v2")
RECIPES = ("fp32", "fp16")


def called(*command: object, **more: Any) -> str:
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, check=False, **more)
    assert done.returncode == 0, done.stderr[-3000:]
    return str(done.stdout)


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with the version of onnxruntime-gpu that the CPU's is pinned to."""
    folder = tmp_path_factory.mktemp("wheel") / "venv"
    called(sys.executable, "-m", "venv", folder)
    pinned = (ROOT / "constraints.txt").read_text()
    (version,) = re.findall(r"^onnxruntime==(\S+)$", pinned, re.MULTILINE)
    made = folder / "bin/python"
    install = (made, "-m", "pip", "install", "--quiet", "-c", ROOT / "constraints.txt")
    called(*install, "--editable", ROOT)
    called(*install, f"onnxruntime-gpu=={version}")
    # Beside it, not within: the engine would load the real libraries there.
    headers = ("nvidia-cuda-runtime==13.*", "nvidia-cuda-crt==13.*")
    called(*install, "--no-deps", "--target", folder / "headers", *headers)
    return made


@pytest.fixture(scope="module")
def libraries(python: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """CUDA's libraries as far as the provider asks for them; see pretended/GPU.c."""
    if (compiler := shutil.which("cc")) is None:
        pytest.skip("there is no C compiler")
    packages = next((python.parent.parent / "lib").iterdir()) / "site-packages"
    provider = packages / "onnxruntime/capi/libonnxruntime_providers_cuda.so"
    headers = python.parent.parent / "headers/nvidia/cu13/include"
    made = tmp_path_factory.mktemp("libraries")
    wanted = called("nm", "-D", "--undefined-only", provider).split()
    needed = re.findall(r"\[(lib(?:cuda|cudart|cublas|cublasLt|curand)\.so\S*)\]",
                        called("readelf", "-d", provider))  # fmt: skip
    for library in sorted(needed, key=lambda name: "cudart" not in name):
        kind = library.removeprefix("lib").partition(".")[0].upper()
        own = {name.partition("@")[0] for name in wanted if name.endswith(f"@{library}")}
        written = set(re.findall(r"\b(\w+)\(", (PRETENDED / "GPU.c").read_text()))
        others = made / f"{kind}.c"
        others.write_text("".join(f"int {name}() {{ return 0; }}\n" for name in own - written))
        called(
            compiler, "-w", "-shared", "-fPIC", "-O1", f"-D{kind}", f"-Wl,-soname,{library}",
            "-Wl,--default-symver", "-I", headers, "-o", made / library,
            PRETENDED / "GPU.c", others, *made.glob("libcudart.so.*"),
        )  # fmt: skip
    return made


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundles")
    for recipe in RECIPES:
        given = {"recipe": recipe, "force": recipe != "fp32"}
        for name, (make, task) in DECODERS.items():
            model = folder / "models" / name
            export(
                str(model if model.exists() else make(model)),
                folder / f"{name}-{recipe}", task=task, **given,
            )  # fmt: skip
        for name in ENCODERS:
            model = folder / "models" / name
            task = "feature-extraction"
            if not model.exists():
                checkpoints.encoder(model, name, task)
            export(str(model), folder / f"{name}-{recipe}", task=task, **given)
    return folder


def look(python: Path, libraries: Path | None, what: str, *given: object) -> tuple[Any, str]:
    """What look.py says, and what the runtime said on the way."""
    names = {"ORT_ENABLE_ATTENTION_KERNEL_DEBUG_INFO": "1"}
    names |= {"LD_LIBRARY_PATH": str(libraries)} if libraries else {}
    out = called(python, PRETENDED / "look.py", what, *given, env={**os.environ, **names})
    *before, last = out.splitlines()
    return json.loads(last), "\n".join(before)


def test_without_a_driver_and_without_its_libraries_it_is_refused(python: Path) -> None:
    found, _ = look(python, None, "refused")
    no_driver, no_library = found["said"]
    assert "no NVIDIA driver" in no_driver
    assert "libcublasLt.so.13: cannot open shared object file" in no_library
    assert "CPUExecutionProvider is what would run" in no_library
    assert 'pip install "corpus-engine[gpu]"' in no_library
    assert "libcublasLt.so.13" in found["cuda"]["missing"]
    assert "libcublasLt.so.13" in found["providers"]["CUDAExecutionProvider"]
    assert found["providers"]["CPUExecutionProvider"] == "loads"
    assert any("corpus-engine[gpu]" in hint for hint in found["hints"])


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("family", [*DECODERS, *ENCODERS])
def test_no_node_with_work_in_it_falls_back(
    python: Path, libraries: Path, made: Path, family: str, recipe: str
) -> None:
    ran, _ = look(python, libraries, "placed", made / f"{family}-{recipe}")
    assert ran["provider"] == "CUDAExecutionProvider"
    assert ran["gpu"] == "pretended"
    for graph, nodes in ran["nodes"].items():
        assert nodes["CUDAExecutionProvider"] > 0
        if graph == "device_step":
            # Or it could not be captured.
            assert nodes.keys() == {"CUDAExecutionProvider"}


def test_nodes_that_would_fall_back_are_refused(python: Path, libraries: Path, made: Path) -> None:
    quantize(made / "bert-fp32", made / "bert-int8", recipe="int8", force=True)
    found, _ = look(python, libraries, "fallen", made / "bert-int8")
    assert re.search(r"\d+ nodes fell back to the CPU: \d+ MatMulInteger", found["said"])
    assert "hint: a GPU runs bundles of recipe fp16 and fp32" in found["said"]


@pytest.mark.parametrize("family", [*ENCODERS, "t5", "bart", "marian", "pegasus"])
def test_an_encoder_takes_fused_attention_and_waits_for_little(
    python: Path, libraries: Path, made: Path, family: str
) -> None:
    folder = bundle_format.load(made / f"{family}-fp16")
    found, said = look(python, libraries, "encoded", folder.path)
    kernels = set(re.findall(r"SdpaKernel=(\w+)", said))
    if not any(graph.packed for graph in folder.description.graphs):
        assert family == "deberta-v2"
        return
    biased = family in ("t5", "mpnet")
    assert kernels == {"EFFICIENT_ATTENTION" if biased else "FLASH_ATTENTION"}
    # At the end of the run, and when somebody reads the answer.
    assert found["syncs"] <= 3
    assert found["to_host"] == 1
    assert found["allocations"] == found["forbidden"] == 0


@pytest.mark.parametrize("bundle", ["bert-fp32", "bert-fp16", "t5-fp16"])
def test_memory_does_not_grow_for_good(
    python: Path, libraries: Path, made: Path, bundle: str
) -> None:
    first, then = look(python, libraries, "stayed", made / bundle)[0]
    assert first["allocations"] > 0
    assert then["allocations"] == 0


@pytest.mark.parametrize("name", ["bert-fp16", "t5-fp16", "gpt2-fp16"])
def test_the_same_rows_again_take_no_more_memory(
    python: Path, libraries: Path, made: Path, name: str
) -> None:
    first, _, *others = look(python, libraries, "repeated", made / name)[0]
    assert first["allocations"] > 0
    for counts in others:
        assert counts["allocations"] == 0


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("family", DECODERS)
def test_a_step_is_captured_and_is_one_launch_from_any_thread(
    python: Path, libraries: Path, made: Path, family: str, recipe: str
) -> None:
    found, _ = look(python, libraries, "decoded", made / f"{family}-{recipe}")
    assert all(counts["forbidden"] == 0 for counts in found.values())
    for name, counts in found.items():
        rows, _, what = name.partition(", ")
        if what in ("here", "elsewhere", "beyond"):
            assert counts["graphs"] == SYNC_EVERY
            assert counts["launches"] == counts["products"] == counts["allocations"] == 0
            # One for each launch, which is ONNX Runtime's own, and the looks.
            assert counts["syncs"] <= SYNC_EVERY + 3
            # States before, and what a prompt goes on with; what was said and states behind.
            assert counts["to_gpu"] <= 2
            assert counts["to_host"] == 2
        elif "again" in rows:
            # All that is bound to memory of these shapes has been, and is there.
            assert counts["graphs"] == 0
            assert counts["allocations"] == 0 or name == "again"
    # Parts of a memory are read and written in place, as a whole one is.
    for what in ("launches", "products", "moves", "graphs"):
        assert found["first"][what] == found["fewer"][what]
        assert found["first, grown"][what] == found["fewer, grown"][what]
