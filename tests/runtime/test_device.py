"""A GPU is taken, or it is said why not; and what runs on one runs through the same code."""

from __future__ import annotations

import dataclasses
import gc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine.bundle import format as bundle_format
from engine.core.device import CPU, Device
from engine.core.graphs import GraphRecord
from engine.core.types import Ragged, Rows
from engine.demo import BUNDLE
from engine.errors import BackendError, DeviceError, OtherRunError, OutOfMemory, SettingsError
from engine.pipeline import Bundle
from engine.runner.coordinator import run
from engine.runner.manifest import Manifest
from engine.runtime import backend as backends
from engine.runtime import cuda, device, doctor, sessions
from engine.runtime.backend import OrtBackend
from engine.runtime.gpu_serialization import GPU_LOCK

pytest.importorskip("onnxruntime")
from support.fake_cuda import DRIVER, H100, FarRuntime, Node, Part, pretend


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> FarRuntime:
    return pretend(monkeypatch)


ENCODER = GraphRecord("encoder.onnx", "encoder")


def open_far(graph: GraphRecord = ENCODER, **more: Any) -> OrtBackend:
    return OrtBackend(BUNDLE, [graph], device=Device("cuda"), **more)


FEEDS = {
    "input_ids": np.array([[5, 6, 1], [7, 1, 0]], np.int64),
    "attention_mask": np.array([[1, 1, 1], [1, 1, 0]], np.int64),
}


# --- what is asked for, and what there is


@pytest.mark.parametrize(
    ("driver", "said", "hint"),
    [
        (cuda.Driver(problem="no NVIDIA driver is loaded (x)"), "no NVIDIA driver", "nvidia-smi"),
        (cuda.Driver("1", (13, 0), (), "the NVIDIA driver has no GPU"), "no GPU", "nvidia-smi"),
        (dataclasses.replace(DRIVER, cuda=(12, 4)), "serves CUDA 12.4", "onnxruntime-gpu<1.27"),
        (dataclasses.replace(DRIVER, cuda=(11, 8)), "built for CUDA 13", "for CUDA 11"),
    ],
    ids=["driver", "gpu", "CUDA 12", "CUDA 11"],
)
def test_a_gpu_that_is_not_there_is_refused_and_auto_passes_it_over(
    gpu: FarRuntime, monkeypatch: pytest.MonkeyPatch, driver: cuda.Driver, said: str, hint: str
) -> None:
    monkeypatch.setattr(cuda, "look", lambda: driver)
    for asked in ("cuda", "cuda:0", "cuda:1", "cuda:all"):
        with pytest.raises(DeviceError, match=said) as refused:
            device.devices(asked)
        assert hint in refused.value.hint
    assert device.resolve("auto") == CPU
    passed = device.why_no_gpu()
    assert passed
    assert said in passed[0]


def test_a_runtime_without_cuda_is_refused(
    gpu: FarRuntime, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu, "get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(DeviceError, match="no CUDA provider") as refused:
        device.resolve("cuda")
    assert 'pip install "corpus-engine[gpu]"' in refused.value.hint
    assert "pip uninstall -y onnxruntime" in refused.value.hint
    assert device.resolve("auto") == CPU
    assert device.built_for() == 0


def test_gpus_are_counted(gpu: FarRuntime, monkeypatch: pytest.MonkeyPatch) -> None:
    assert device.resolve("cuda") == device.resolve("auto") == Device("cuda")
    with pytest.raises(DeviceError, match=r"has 1 GPU: cuda:0\n"):
        device.resolve("cuda:1")
    monkeypatch.setattr(cuda, "look", lambda: dataclasses.replace(DRIVER, gpus=(H100, H100)))
    assert device.resolve("cuda:1") == Device("cuda", 1)
    assert device.devices("cuda:all") == (Device("cuda"), Device("cuda", 1))
    assert device.devices("cuda") == (Device("cuda"),)
    with pytest.raises(DeviceError, match="2 GPUs: cuda:0 to cuda:1"):
        device.resolve("cuda:2")
    with pytest.raises(SettingsError, match="device is cuda:all, and one is needed"):
        Bundle.load(BUNDLE, device="cuda:all")


@pytest.mark.parametrize(
    ("says", "named"),
    [
        (
            "[E:onnxruntime] Failed to load library libonnxruntime_providers_cuda.so with error: "
            "libcublasLt.so.13: cannot open shared object file: No such file or directory",
            "libcublasLt.so.13: cannot open shared object file",
        ),
        ("[E] CUDA failure 35: CUDA driver version is insufficient ; GPU=0", "CUDA failure 35"),
        ("", r"does not load\n"),
    ],
)
def test_a_provider_that_does_not_load_is_refused(
    gpu: FarRuntime, capfd: pytest.CaptureFixture[str], says: str, named: str
) -> None:
    """The session that comes back is on the CPU, without a word but in the log."""
    gpu.loads, gpu.says = False, says
    with pytest.raises(DeviceError, match=named) as refused:
        open_far()
    assert "CPUExecutionProvider is what would run" in refused.value.message
    assert 'pip install "corpus-engine[gpu]"' in refused.value.hint
    out, err = capfd.readouterr()
    assert out == err == ""


def test_a_driver_that_fails_when_a_session_is_made_is_told_as_such(
    gpu: FarRuntime, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*given: Any, **more: Any) -> None:
        raise RuntimeError(
            'x.cc:63 [ONNXRuntimeError] : 1 : FAIL : Failed to parse provider option "device_id": '
            "CUDA failure 36: API call is not supported in the installed CUDA driver ; GPU=-1"
        )

    monkeypatch.setattr(gpu, "InferenceSession", fails)
    with pytest.raises(DeviceError, match="CUDA failure 36: API call is not supported") as failed:
        open_far()
    assert "doctor" in failed.value.hint


def test_a_missing_library_is_found_where_the_log_names_none(
    gpu: FarRuntime, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu.loads = False
    monkeypatch.setattr(cuda, "missing", lambda major: ("libcudnn.so.9",))
    with pytest.raises(DeviceError, match=r"libcudnn\.so\.9"):
        open_far()


def test_nodes_that_fell_back_to_the_cpu_are_refused_and_shapes_are_not(gpu: FarRuntime) -> None:
    gpu.parts = [Part("CPUExecutionProvider", [Node("Shape"), Node("Gather"), Node("Concat")])]
    assert open_far().ran["nodes"] == {
        "encoder": {"CUDAExecutionProvider": 3, "CPUExecutionProvider": 3}
    }
    lost = [Node("MatMulIntegerToFloat", "com.microsoft")] * 36 + [Node("Softmax"), Node("Shape")]
    gpu.parts = [Part("CPUExecutionProvider", lost)]
    with pytest.raises(DeviceError, match="37 nodes fell back to the CPU: 36 MatMulInteger") as no:
        open_far()
    assert "fp16" in no.value.hint


def test_an_int8_bundle_s_nodes_would_fall_back(tmp_path: Path) -> None:
    """What the CPU takes of the real graphs holds ops that are refused on a GPU."""
    options = backends.runtime().SessionOptions()
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    session = backends.runtime().InferenceSession(
        str(BUNDLE / "encoder.onnx"), options, providers=["CPUExecutionProvider"]
    )
    assert device.node_counts(session)["CPUExecutionProvider"] > 10
    with pytest.raises(DeviceError, match="fell back"):
        device.check_nodes(BUNDLE / "encoder.onnx", Device("cuda"), session)
    device.check_nodes(BUNDLE / "encoder.onnx", CPU, session)


# --- the same code on a GPU that is not there


def test_what_ran_is_told(gpu: FarRuntime) -> None:
    ran = open_far().ran
    assert ran["device"] == "cuda:0"
    assert ran["provider"] == "CUDAExecutionProvider"
    assert ran["gpu"] == "NVIDIA H100 80GB HBM3"
    assert ran["driver"] == "580.65.06"
    assert {"cuda", "cudnn", "runtime"} <= ran.keys()
    assert gpu.preloaded == 1


def test_inputs_are_staged_and_outputs_stay(gpu: FarRuntime) -> None:
    near = OrtBackend(BUNDLE, [ENCODER], device=CPU)
    far = open_far(gpu_memory=1 << 30)
    names = near.graph("encoder").outputs
    wanted = [near.host(v) for v in near.graph("encoder").run(FEEDS, names)]
    for _ in range(2):  # the second time in the memory of the first
        values = far.graph("encoder").run(FEEDS, names)
        assert not any(isinstance(value, np.ndarray) for value in values)
        for value, want in zip(values, wanted, strict=True):
            np.testing.assert_array_equal(far.host(value), want)
    options = gpu.sessions[0].options
    assert options["gpu_mem_limit"] == str(1 << 30)
    assert options["arena_extend_strategy"] == "kSameAsRequested"
    assert options["use_tf32"] == "0"
    assert options["use_ep_level_unified_stream"] == "1"
    assert "enable_cuda_graph" not in options
    assert set(gpu.sessions[0].runs) == {"-1"}


def test_tf32_is_for_products_of_numbers_that_it_holds(gpu: FarRuntime) -> None:
    open_far(dataclasses.replace(ENCODER, tf32=True))
    open_far()
    assert [session.options["use_tf32"] for session in gpu.sessions] == ["1", "0"]


def test_buffers_on_a_gpu_begin_as_zeros_and_are_put_whole(gpu: FarRuntime) -> None:
    far = open_far()
    buffer = far.buffer((2, 3), np.float32)
    assert not far.host(buffer).any()
    far.put(buffer, np.arange(6, dtype=np.float32).reshape(2, 3))
    assert far.host(buffer).tolist() == [[0, 1, 2], [3, 4, 5]]
    gpu.largest_buffer = 8
    with pytest.raises(OutOfMemory, match="no memory left"):
        far.buffer((2, 3), np.float32)


def test_a_bound_call_is_captured_once_and_released_with_its_buffers(gpu: FarRuntime) -> None:
    far = open_far(dataclasses.replace(ENCODER, captured=True))
    session = gpu.sessions[0]
    assert session.options["enable_cuda_graph"] == "1"
    graph = far.graph("encoder")
    wanted = [far.host(v) for v in graph.run(FEEDS, graph.outputs)]
    inputs = {n: far.buffer(v.shape, v.dtype) for n, v in FEEDS.items()}
    outputs = {
        name: far.buffer(want.shape, want.dtype)
        for name, want in zip(graph.outputs, wanted, strict=True)
    }
    for name, array in FEEDS.items():
        far.put(inputs[name], array)
    bound = graph.bind(inputs, outputs)
    bound()
    bound()
    assert session.runs == ["-1", "1", "1"]
    for name, want in zip(graph.outputs, wanted, strict=True):
        np.testing.assert_array_equal(far.host(outputs[name]), want)
    del bound
    gc.collect()
    assert session.released == [1]


def test_only_the_launch_that_captures_is_alone_on_the_gpu(gpu: FarRuntime) -> None:
    far = open_far(dataclasses.replace(ENCODER, captured=True))
    graph = far.graph("encoder")
    arrays = [far.host(value) for value in graph.run(FEEDS, graph.outputs)]
    outputs = dict(zip(graph.outputs, (far.buffer(a.shape, a.dtype) for a in arrays), strict=True))
    bound = graph.bind({n: far.buffer(a.shape, a.dtype) for n, a in FEEDS.items()}, outputs)
    with ThreadPoolExecutor(1) as pool:
        with GPU_LOCK.shared():
            first = pool.submit(bound)
            with pytest.raises(TimeoutError):
                first.result(0.2)
        first.result(60)
        with GPU_LOCK.shared():
            pool.submit(bound).result(60)
    assert gpu.sessions[0].runs[1:] == ["1", "1"]


def test_what_does_not_fit_when_it_is_bound_is_told_as_such(
    gpu: FarRuntime, monkeypatch: pytest.MonkeyPatch
) -> None:
    far = open_far()

    def full(*given: Any) -> None:
        raise RuntimeError("Error when binding input: CUDA failure 2: out of memory ; GPU=0")

    monkeypatch.setattr("support.fake_cuda.Binding.bind_ortvalue_input", full)
    with pytest.raises(OutOfMemory, match=r"encoder\.onnx: out of memory"):
        far.graph("encoder").bind(FEEDS, {})


def test_other_failures_of_a_gpu_are_told_as_such(gpu: FarRuntime) -> None:
    far = open_far()
    with pytest.raises(BackendError, match="inference failed") as failed:
        far.graph("encoder").run({**FEEDS, "nonsense": FEEDS["input_ids"]}, ["nonsense"])
    assert not isinstance(failed.value, OutOfMemory)


def test_what_the_runtime_raises_is_told_with_the_graph_and_the_shape() -> None:
    graph = OrtBackend(BUNDLE, [ENCODER], device=CPU).graph("encoder")
    with pytest.raises(BackendError, match=r"encoder\.onnx: inference failed at \(2, 3\)") as error:
        graph.run({**FEEDS, "input_ids": FEEDS["input_ids"] + 1_000_000}, graph.outputs)
    assert "out of data bounds" in error.value.message
    assert type(error.value.__cause__).__module__.startswith("onnxruntime")


@pytest.mark.parametrize("bug", [TypeError("a"), KeyError("b"), AssertionError("c")])
@pytest.mark.parametrize("kind", ["cpu", "cuda"])
def test_a_bug_of_the_engine_keeps_its_own_traceback(
    gpu: FarRuntime, monkeypatch: pytest.MonkeyPatch, bug: Exception, kind: str
) -> None:
    graph = OrtBackend(BUNDLE, [ENCODER], device=Device.parse(kind)).graph("encoder")

    def broken(*given: Any) -> None:
        raise bug

    monkeypatch.setattr(backends.OrtGraph, "_stage", broken)
    monkeypatch.setattr(backends, "ort_value", broken)
    for call in (lambda: graph.run(FEEDS, graph.outputs), lambda: graph.bind(FEEDS, {})):
        with pytest.raises(type(bug)) as failed:
            call()
        assert failed.value is bug


def test_memory_that_python_cannot_have_is_out_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = OrtBackend(BUNDLE, [ENCODER], device=CPU).graph("encoder")

    def full(value: Any) -> None:
        raise MemoryError("std::bad_alloc")

    monkeypatch.setattr(backends, "ort_value", full)
    with pytest.raises(OutOfMemory, match=r"out of memory at \(2, 3\)"):
        graph.run(FEEDS, graph.outputs)


# --- a batch that does not fit


class Narrow:
    """A task whose device takes two sequences at a time; every call leaves a buffer for later."""

    def __init__(self, most: int) -> None:
        self.most, self.sizes, self.spare = most, [], []

    def infer(self, backend: Any, feeds: Any, context: Any) -> dict[str, Any]:
        rows = len(feeds["input_ids"])
        self.sizes.append(rows)
        self.spare.append(len(context.spare))
        context.spare.append({"buffer": object()})
        assert len(context.numbers) == rows
        if rows > self.most:
            raise OutOfMemory("no room")
        ids = feeds["input_ids"]
        return {
            "sum": ids.sum(axis=1),
            "tokens": Ragged.of_padded(ids, feeds["attention_mask"].sum(axis=1)),
            "number": context.numbers,
        }


def test_a_batch_that_does_not_fit_is_halved_and_goes_on() -> None:
    import pyarrow as pa

    from engine import tasks

    loaded = Bundle(bundle_format.load(BUNDLE), OrtBackend(BUNDLE, [ENCODER], device=CPU))
    counts: dict[str, int] = {}

    def count(**more: int) -> None:
        counts.update({n: counts.get(n, 0) + v for n, v in more.items()})

    stages = loaded.stages({}, count=count)
    narrow = Narrow(2)
    halving = dataclasses.replace(
        stages, task=dataclasses.replace(tasks.find("translation"), infer=narrow.infer)
    )
    texts = pa.array(["uno", "dos", "tres", "cuatro", "cinco", "ciento uno", "mil"])
    (batch,) = halving.cut(halving.encode(Rows(None, (texts,), numbers=np.arange(7) + 40)))
    arrays = halving.infer(batch).arrays
    assert narrow.sizes == [7, 3, 1, 2, 4, 2, 2]
    # Buffers of earlier calls are given up where memory is full: they may be all that is missing.
    assert narrow.spare == [0, 0, 0, 1, 2, 0, 1]
    assert counts["halved"] == 3
    np.testing.assert_array_equal(arrays["sum"], batch.feeds["input_ids"].sum(axis=1))
    np.testing.assert_array_equal(arrays["number"], batch.numbers)
    lengths = batch.feeds["attention_mask"].sum(axis=1)
    np.testing.assert_array_equal(arrays["tokens"].lengths, lengths)
    narrow.most = 0
    with pytest.raises(OutOfMemory):
        halving.infer(batch)


def test_a_decoder_has_a_share_of_the_gpu(gpu: FarRuntime) -> None:
    # Two calls' caches may be kept.
    assert open_far().cache_bytes == H100.memory // 3 // 2
    assert open_far(gpu_memory=2 << 30).cache_bytes == 1 << 30
    assert open_far(gpu_memory=H100.memory).cache_bytes == open_far().cache_bytes
    assert OrtBackend(BUNDLE, [ENCODER], device=CPU).cache_bytes == 1 << 30


# --- what is said of it


def test_auto_says_that_it_took_the_cpu_and_the_manifest_what_ran(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.runner.report.why_gpu_is_idle", lambda: "the driver is old")
    monkeypatch.setattr(device, "why_no_gpu", lambda: ("there is no GPU", "buy one"))
    file = tmp_path / "n.jsonl"
    file.write_text('{"text": "uno"}\n')
    report = run(BUNDLE, [file], tmp_path / "out")
    assert "auto took the CPU: the driver is old" in report.notes
    (entry,) = Manifest(tmp_path / "out").entries()
    assert entry.ran == report.ran
    assert entry.ran["provider"] == "CPUExecutionProvider"
    assert entry.ran["nodes"]["encoder"]["CPUExecutionProvider"] > 0
    quiet = run(BUNDLE, [file], tmp_path / "other", device="cpu")
    assert not any("auto took" in note for note in quiet.notes)


@pytest.mark.parametrize("asked", ["cuda", "auto"])
def test_a_run_on_a_gpu_answers_as_ever_and_its_records_say_what_ran(
    gpu: FarRuntime, tmp_path: Path, asked: str
) -> None:
    """Threads, staged inputs and outputs that stay, over several windows."""
    import pyarrow as pa

    file = tmp_path / "n.jsonl"
    file.write_text("".join(f'{{"text": "mil {word}"}}\n' for word in ["uno", "dos", "tres"] * 40))
    near = run(BUNDLE, [file], tmp_path / "near", device="cpu", window=32, dedupe=False)
    far = run(BUNDLE, [file], tmp_path / "far", device=asked, window=32, dedupe=False, workers=3)
    assert (far.device, far.ran["gpu"]) == ("cuda:0", H100.name)
    assert not any("auto took" in note for note in far.notes)
    tables = []
    for folder, report in (("near", near), ("far", far)):
        with pa.OSFile(str(tmp_path / folder / report.files[0])) as stream:
            tables.append(pa.ipc.open_file(stream).read_all())
    assert tables[0].equals(tables[1])
    (entry,) = Manifest(tmp_path / "far").entries()
    assert entry.ran["provider"] == "CUDAExecutionProvider"
    assert entry.ran["driver"] == DRIVER.release
    assert entry.ran["nodes"]["encoder"]["CUDAExecutionProvider"] == 3
    again = run(BUNDLE, [file], tmp_path / "far", device="cuda:0", window=32, dedupe=False)
    assert again.splits_skipped == 1
    # Its answers are the GPU's: on the CPU that is another run.
    with pytest.raises(OtherRunError, match="device"):
        run(BUNDLE, [file], tmp_path / "far", device="cpu", window=32, dedupe=False)


def test_doctor_tells_why_a_gpu_cannot_be_used(
    gpu: FarRuntime, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu.loads = False
    gpu.says = "x: libcublasLt.so.13: cannot open shared object file: No such file"
    monkeypatch.setattr(cuda, "missing", lambda major: ("libcublasLt.so.13",))
    monkeypatch.setattr(sessions, "check_nodes", lambda *given: None)
    found = doctor.diagnose(BUNDLE / "encoder.onnx")
    assert "libcublasLt.so.13" in found.providers["CUDAExecutionProvider"]
    assert any("corpus-engine[gpu]" in hint for hint in found.hints)
    assert found.cuda["missing"] == ["libcublasLt.so.13"]
    assert found.cuda["onnxruntime"] == "built for CUDA 13"
    assert "H100" in found.cuda["gpus"][0]


def test_a_real_look_at_this_machine_never_raises() -> None:
    found = cuda.look()
    assert bool(found.gpus) != bool(found.problem)
    assert isinstance(cuda.missing(13), tuple)
    assert set(cuda.versions(13)) == {"cuda", "cudnn"}
    memory = cuda.page_locked(100, 13)
    assert memory.nbytes == 100


def test_the_real_wheel_for_a_gpu_is_refused_here(tmp_path: Path) -> None:
    """With onnxruntime-gpu and no GPU: lists its provider, and is not believed."""
    if not device.built_for():
        pytest.skip("this onnxruntime has no CUDA provider")
    if cuda.look().gpus:
        pytest.skip("there is a GPU")
    with pytest.raises(DeviceError, match=r"no NVIDIA driver|no GPU|does not start"):
        device.resolve("cuda")
    # As if the driver were there: the provider itself has to be looked at.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cuda, "look", lambda: DRIVER)
        with pytest.raises((DeviceError, BackendError), match=r"CUDA|cuda"):
            open_far()
