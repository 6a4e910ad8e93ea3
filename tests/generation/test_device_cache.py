"""Decoding that stays on a device says what decoding slot by slot says, whenever one looks."""

from __future__ import annotations

import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import checkpoints
from support.bundles import checkpoint_of, export_once
from support.checkpoints import encoder_decoders
from support.fakes import FakeBackend

from engine.bundle import format as bundle_format
from engine.bundle.format import SYNC_EVERY
from engine.core.device import CPU, Device
from engine.core.graphs import GraphRecord
from engine.core.types import Ints
from engine.errors import OutOfMemory, Stopped
from engine.generation import device_cache, generate, trace_logits, trace_steps, uncounted
from engine.generation.buffer_pool import BoundStep, BufferPool
from engine.runtime.gpu_serialization import SerialExecutor
from engine.tasks.decoding import decoder_config

pytest.importorskip("optimum.exporters.onnx")
onnxruntime = pytest.importorskip("onnxruntime")

from support.fake_cuda import Late, LateGraph, pretend  # noqa: E402

from engine.runtime import sessions  # noqa: E402
from engine.runtime.backend import OrtBackend  # noqa: E402

FAMILIES = {
    name: checkpoints.GENERATORS[name]
    for name in ("t5", "bart", "marian", "nllb", "pegasus", "gpt2", "opt")
} | {"umt5": (encoder_decoders.umt5, "text2text-generation")}
# Fewer heads of keys and values, rotary positions; windows, bounds, norms of heads.
ROTARY: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("Llama", {}),
    "gemma2": ("Gemma2", {"sliding_window": 6, "query_pre_attn_scalar": 24}),
    "gemma3": (
        "Gemma3Text", {"sliding_window": 6, "layer_types": ["sliding_attention", "full_attention"]}
    ),
}  # fmt: skip
SEARCHES: dict[str, dict[str, Any]] = {
    "greedy": {},
    "beams": {"num_beams": 3},
    "sampling": {"do_sample": True, "top_k": 5},
    "rules": {"no_repeat_ngram_size": 2, "min_new_tokens": 3},
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("resident")
    for name, (make, task) in FAMILIES.items():
        export_once(checkpoint_of(make), folder / name, task=task)
    for name, (kind, config) in ROTARY.items():
        checkpoint = checkpoint_of(checkpoints.rotary, kind, **config)
        export_once(checkpoint, folder / name, task="text-generation")
    return folder


def near(folder: Path) -> OrtBackend:
    return OrtBackend(folder, bundle_format.load(folder).graphs_for(CPU), device=CPU)


def far(folder: Path) -> Late:
    """Its resident graph, on a device that does nothing before it is looked at."""
    graphs = bundle_format.load(folder).graphs_for(Device("cuda"))
    return Late(OrtBackend(folder, graphs, device=CPU))


def rows(count: int = 23, longest: int = 11, seed: int = 0) -> dict[str, Ints]:
    drawn = np.random.default_rng(seed)
    lengths = np.sort(drawn.integers(1, longest + 1, count))[::-1]
    mask = (np.arange(longest) < lengths[:, None]).astype(np.int64)
    ids = drawn.integers(5, 90, (count, longest)) * mask
    return {"input_ids": ids, "attention_mask": mask}


def told(backend: Any, folder: Path, feeds: dict[str, Ints], **given: Any) -> list[list[int]]:
    model_config = bundle_format.load(folder).description.model_config
    settings = decoder_config(model_config)
    settings = replace(settings, end_ids=given.pop("ends", settings.end_ids))
    search = bundle_format.GenerationConfig(**{"num_beams": 1, **given.pop("search", {})})
    given = {"max_new_tokens": 13, **given}
    tokens, ended = generate(backend, feeds, settings, search, **given)
    answers = [own.tolist() for own in np.split(tokens.values, tokens.offsets[1:-1])]
    ends = set(settings.end_ids)
    assert ended.tolist() == [answer[-1] in ends for answer in answers]
    return answers


@pytest.mark.parametrize("search", SEARCHES)
@pytest.mark.parametrize("family", [*FAMILIES, *ROTARY])
def test_what_is_said_is_what_the_host_s_step_says(made: Path, family: str, search: str) -> None:
    feeds, given = rows(), {"search": SEARCHES[search], "batch_tokens": 40}
    wanted = told(near(made / family), made / family, feeds, **given)
    assert told(far(made / family), made / family, feeds, **given) == wanted


@pytest.mark.parametrize("family", ["t5", "gpt2"])
def test_rows_alone_say_the_same(made: Path, family: str) -> None:
    feeds, device = rows(9), far(made / family)
    together = told(device, made / family, feeds)
    alone = [
        told(device, made / family, {n: a[[i]] for n, a in feeds.items()})[0] for i in range(9)
    ]
    assert together == alone


@pytest.mark.parametrize("family", ["t5", "bart", "gpt2"])
def test_few_slots_are_refilled_and_caches_grow(
    made: Path, family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    feeds = rows(30)
    wanted = told(near(made / family), made / family, feeds, max_new_tokens=29)
    monkeypatch.setattr(device_cache, "MOST", 4)
    monkeypatch.setattr(device_cache, "POSITIONS", 2)
    device, spare = far(made / family), [BufferPool()]
    counts: dict[str, int] = {}

    def count(**more: int) -> None:
        counts.update({n: counts.get(n, 0) + v for n, v in more.items()})

    given = {"max_new_tokens": 29, "spare": spare, "batch_tokens": 40, "count": count}
    assert told(device, made / family, feeds, **given) == wanted
    assert counts["busy"] == sum(map(len, wanted))
    assert counts["group_steps"] >= counts["busy"]
    # A second batch finds memory that is large enough, and a third one all of it bound.
    assert told(device, made / family, feeds, **given) == wanted
    kept = spare[0]
    assert len({key.split(".")[1] for key in kept.steps}) > 2, "the cache has not grown"
    calls, size = [one.run for one in kept.steps.values()], kept.bytes
    assert told(device, made / family, feeds, **given) == wanted
    assert [one.run for one in kept.steps.values()] == calls
    assert kept.bytes == size
    if family != "gpt2":
        assert device.launches["admit"] > 7


@pytest.mark.parametrize("family", ["t5", "bart", "marian", "gpt2", "opt"])
def test_the_last_rows_go_on_in_fewer_slots(
    made: Path, family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    feeds = rows(40)
    endless = told(near(made / family), made / family, feeds, max_new_tokens=45)
    ends = tuple(token for token, _ in Counter(t for row in endless for t in row).most_common(2))
    wanted = told(near(made / family), made / family, feeds, max_new_tokens=45, ends=ends)
    assert len(set(map(len, wanted))) > 1
    monkeypatch.setattr(device_cache, "MOST", 32)
    monkeypatch.setattr(device_cache, "FEWEST", 2)
    monkeypatch.setattr(device_cache, "POSITIONS", 4)
    device, spare = far(made / family), [BufferPool()]
    given = {"max_new_tokens": 45, "spare": spare, "batch_tokens": 40, "ends": ends}
    for _ in range(3):
        assert told(device, made / family, feeds, **given) == wanted
    held = spare[0].steps
    assert {key.split(".")[0] for key in held} >= {"32", "8"}
    calls = [one.run for one in held.values()]
    assert told(device, made / family, feeds, **given) == wanted
    assert [one.run for one in held.values()] == calls


@pytest.mark.parametrize("search", ["sampling", "rules", "beams"])
@pytest.mark.parametrize("family", ["bart", "gpt2"])
def test_rows_that_come_in_late_leave_the_others_alone(
    made: Path, family: str, search: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A prompt is read while the others wait, each at the very end of its cache's room."""
    feeds = rows(17)
    given = {"search": SEARCHES[search], "max_new_tokens": 21}
    wanted = told(near(made / family), made / family, feeds, **given)
    monkeypatch.setattr(device_cache, "MOST", 6)
    monkeypatch.setattr(device_cache, "POSITIONS", 1)
    assert told(far(made / family), made / family, feeds, **given) == wanted


def test_the_host_looks_once_in_a_few_steps(made: Path) -> None:
    device = far(made / "t5")
    device.looks = 0
    told(device, made / "t5", rows(8), max_new_tokens=32)
    # What was said and the states, each once in LATE steps; a step over idle slots comes first.
    assert device.looks <= 2 * -(-device.launches["device_step"] // SYNC_EVERY)
    assert device.launches["device_step"] % SYNC_EVERY == 1


def test_a_capture_keeps_to_its_thread_and_to_itself(
    made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Many threads decode with one bundle while others are at work on the GPU."""
    pretend(monkeypatch)
    monkeypatch.setattr(device_cache, "POSITIONS", 4)
    folder = bundle_format.load(made / "t5")
    # On this GPU everything is in its place, whatever its ops.
    monkeypatch.setattr(sessions, "check_nodes", lambda *given: None)
    gpu = OrtBackend(folder.path, folder.graphs_for(Device("cuda")), device=Device("cuda"))
    other = OrtBackend(folder.path, [GraphRecord("encoder.onnx", "encoder")], device=Device("cuda"))
    parts = [rows(7 + n, seed=n) for n in range(4)]
    given = {"max_new_tokens": 17, "spare": []}
    wanted = [told(near(folder.path), folder.path, part, max_new_tokens=17) for part in parts]

    def encoded(feeds: dict[str, Ints]) -> None:
        for _ in range(30):
            value = other.graph("encoder").run(feeds, ["cross.0.key"])[0]
            other.put(other.buffer((2,), np.int64), np.ones(2, np.int64))
            assert other.host(value).any()

    with ThreadPoolExecutor(8) as pool:
        busy = [pool.submit(encoded, part) for part in parts]
        found = list(pool.map(lambda part: told(gpu, folder.path, part, **given), parts))
        for one in busy:
            one.result()
    assert found == wanted
    steps = gpu.graph("device_step").session.runs
    assert len(steps) > len(set(steps)) > 1
    assert len({thread for thread, _ in gpu.graph("device_step").session.captured}) == 1


def caches(kept: BufferPool) -> int:
    return sum(
        n for name, (n, *_) in kept.allocations.items() if name.startswith(("past.", "cross."))
    )


@pytest.mark.parametrize("family", ["t5", "gpt2"])
def test_memory_and_captures_are_those_of_few_shapes(
    made: Path, family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many come by: each takes the beginning of what there is, or the next larger one."""
    monkeypatch.setattr(device_cache, "POSITIONS", 4)
    monkeypatch.setattr(device_cache, "MOST", 4)
    near_by, device = near(made / family), far(made / family)
    spare = [BufferPool()]
    drawn, bound, size = np.random.default_rng(0), [], []
    for window in range(90):
        feeds = rows(int(drawn.integers(3, 6)), int(drawn.integers(1, 40)), window)
        # A translation's limit is the model's; a prompt counts to it.
        given = {"max_new_tokens": 9 if family == "gpt2" else int(drawn.choice([7, 14]))}
        found = told(device, made / family, feeds, spare=spare, **given)
        if window % 9 == 0:
            assert found == told(near_by, made / family, feeds, **given)
        kept = spare[0]
        bound.append(set(map(id, kept.steps.values())))
        size.append(kept.bytes)
        for held in kept.steps.values():
            for name, piece in held.allocations.items():
                assert held.buffers[name].memory is kept.allocations[piece].buffer.memory
    assert len(bound[-1]) < 30
    assert bound[60] == bound[-1]
    assert size[60] == size[-1]


def test_a_call_has_slots_for_its_room_whatever_came_before(made: Path) -> None:
    device, feeds, long = far(made / "t5"), rows(64), rows(64, 60)
    own = 2 * 16 + 16  # positions of two sides, and of a source
    model_config = decoder_config(bundle_format.load(made / "t5").description.model_config)
    each = 2 * model_config.layers * model_config.heads * model_config.head_dim * 4
    device.cache_bytes = 40 * each * own
    spare: list[BufferPool] = []
    for given in (long, feeds, long, feeds):
        told(device, made / "t5", given, spare=spare)
        kept = spare[0]
        assert {key.split(".")[0] for key in kept.steps if key.split(".")[2] == "16"} <= {"32"}
        assert {key.split(".")[0] for key in kept.steps if key.split(".")[2] == "64"} <= {"16"}
        assert caches(kept) <= 2 * device.cache_bytes


def test_a_call_that_has_no_memory_leaves_the_next_one_alone(
    made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime = pretend(monkeypatch)
    monkeypatch.setattr(sessions, "check_nodes", lambda *given: None)
    folder = bundle_format.load(made / "t5")
    gpu = OrtBackend(folder.path, folder.graphs_for(Device("cuda")), device=Device("cuda"))
    spare: list[BufferPool] = []
    given = {"max_new_tokens": 40, "spare": spare}
    wanted = told(near(folder.path), folder.path, rows(3), max_new_tokens=40)
    assert told(gpu, folder.path, rows(3), **given) == wanted
    runtime.largest_buffer = 1000
    with pytest.raises(OutOfMemory):
        told(gpu, folder.path, rows(30), **given)
    runtime.largest_buffer = 1 << 40
    assert told(gpu, folder.path, rows(3), **given) == wanted


def test_a_decoder_is_led_along_given_tokens(made: Path) -> None:
    for family in ("t5", "gpt2"):
        settings = decoder_config(bundle_format.load(made / family).description.model_config)
        feeds = rows(7)
        first = trace_steps(near(made / family), feeds, settings, 9)
        second = trace_steps(far(made / family), feeds, settings, 9, along=first)
        for row, length in enumerate(first.lengths):
            assert second.tokens[row, :length].tolist() == first.tokens[row, :length].tolist()
        np.testing.assert_allclose(second.margins, first.margins, atol=1e-4)


@pytest.mark.parametrize("family", ["t5", "gpt2"])
def test_logits_along_given_tokens_do_not_depend_on_slots(made: Path, family: str) -> None:
    settings = decoder_config(bundle_format.load(made / family).description.model_config)
    feeds, forced = rows(7), np.random.default_rng(0).integers(5, 90, (7, 6))
    forced[2, 1] = forced[5, 3] = -1
    wanted = trace_logits(near(made / family), feeds, settings, forced, 7)
    assert not wanted[2, 2:].any()
    assert wanted[2, :2].any(axis=1).all()
    for backend, slots in ((near(made / family), 2), (far(made / family), 3)):
        found = trace_logits(backend, feeds, settings, forced, slots)
        np.testing.assert_allclose(found, wanted, atol=1e-4)


def test_steps_are_dropped_with_the_memory_that_they_are_bound_to() -> None:
    """A step bound to memory that has been freed would read and write somebody else's."""
    pool, backend = BufferPool(), FakeBackend()
    small, other = pool.buffer(backend, "past", (2, 3), float), pool.buffer(backend, "x", (4,), int)
    for key, name in (("bound", "past"), ("untouched", "x")):
        pool.steps[key] = BoundStep({name: small}, {name: name}, lambda: None)
    assert pool.buffer(backend, "past", (1, 3), float).memory is small.memory
    assert set(pool.steps) == {"bound", "untouched"}
    large = pool.buffer(backend, "past", (5, 3), float)
    assert set(pool.steps) == {"untouched"}
    assert large.memory is not small.memory
    assert pool.buffer(backend, "past", (5, 3), float) is large
    assert pool.buffer(backend, "x", (4,), int) is other
    assert pool.bytes == 8 * (15 + 4)


def test_stop_texts_are_asked_for_row_by_row(made: Path) -> None:
    def stop(tails: Any) -> Any:
        return np.array([tail % 3 == 0 for tail in tails.values[tails.offsets[1:] - 1]])

    feeds = rows(12)
    model_config = bundle_format.load(made / "t5").description.model_config
    found = [
        generate(
            backend,
            feeds,
            decoder_config(model_config),
            bundle_format.GenerationConfig(),
            max_new_tokens=9,
            stop=stop,
            tail=4,
        )[0].values.tolist()
        for backend in (near(made / "t5"), far(made / "t5"))
    ]
    assert found[0] == found[1]


def test_whoever_is_interrupted_has_decoding_stop_elsewhere_too(made: Path) -> None:
    """Ctrl-C reaches the thread that waits; the one that decodes would go on to the end."""
    device, begun = far(made / "t5"), threading.Event()

    class Interrupted(SerialExecutor):
        def __call__(self, call: Any) -> Any:
            self._pool.submit(call)
            begun.wait(30)
            raise KeyboardInterrupt

    def count(**more: int) -> None:
        if more.get("group_steps"):
            begun.set()

    lane = device.lane = Interrupted()
    with pytest.raises(KeyboardInterrupt):
        told(device, made / "t5", rows(9), max_new_tokens=100_000, count=count)
    assert SerialExecutor.__call__(lane, lambda: "free") == "free"
    assert device.launches["device_step"] < 5_000


def test_an_encoder_reads_lengths_that_8_divides(made: Path) -> None:
    widths = []
    device = far(made / "t5")
    graph = device.graph("encoder")

    class Seen:
        inputs, outputs = graph.inputs, graph.outputs

        def run(self, feeds: Any, fetch: Any) -> Any:
            widths.append(feeds["input_ids"].shape[1])
            return graph.run(feeds, fetch)

    of = device.graph
    device.graph = lambda name, *more: Seen() if name == "encoder" else of(name, *more)  # type: ignore[method-assign,return-value]  # spied on
    wide = {name: np.pad(array, ((0, 0), (0, 13))) for name, array in rows(7).items()}
    told(device, made / "t5", wide, batch_tokens=20)
    assert set(widths) <= {8, 16}


def test_it_stops_when_it_is_told_to(made: Path) -> None:
    with pytest.raises(Stopped):
        told(far(made / "t5"), made / "t5", rows(4), stopped=lambda: True)
    assert uncounted() is None


def test_each_device_loads_its_own_step(made: Path) -> None:
    folder = bundle_format.load(made / "t5")
    assert [graph.role for graph in folder.graphs_for(CPU)] == ["encoder", "step"]
    there = ["admit", "encoder", "grow", "move", "pick", "device_step"]
    assert [graph.role for graph in folder.graphs_for(Device("cuda", 1))] == there
    gpt2 = bundle_format.load(made / "gpt2").description.graphs
    assert "admit" not in {graph.role for graph in gpt2}


def test_a_step_computes_no_shapes_on_the_host(made: Path) -> None:
    """Or it could not be captured: each op has to have a kernel for CUDA, and `Shape` has none."""
    import onnx

    ops = set()
    for family in (*FAMILIES, *ROTARY):
        ops |= {n.op_type for n in onnx.load(made / family / "resident.onnx").graph.node}
    assert ops <= {
        "Abs", "Add", "And", "Cast", "Concat", "Div", "Equal", "FastGelu", "FusedMatMul", "Gather",
        "GatherElements", "Gelu", "Gemm", "Greater", "GreaterOrEqual", "LayerNormalization", "Less",
        "MatMul", "Max", "Min", "Mul", "Or", "Pow", "QuickGelu", "ReduceMean", "ReduceSum", "Relu",
        "Reshape", "RotaryEmbedding", "SkipLayerNormalization",
        "SkipSimplifiedLayerNormalization", "Softmax", "Split", "Sqrt", "Sub", "Tanh",
        "TensorScatter", "TopK", "Transpose", "Unsqueeze", "Where",
    }  # fmt: skip


@pytest.mark.parametrize("family", [*FAMILIES, *ROTARY])
def test_what_a_row_leaves_in_a_cache_is_finite(made: Path, family: str) -> None:
    """Or a row that comes into its slot would not be its own."""
    import onnx

    graph = onnx.load(made / family / "resident.onnx").graph
    makers = {name: node for node in graph.node for name in node.output}
    writes = [node for node in graph.node if node.op_type == "TensorScatter"]
    assert writes
    for node in writes:
        new = makers[node.input[1]]
        # A norm and a rotation leave finite what is.
        while new.op_type in ("Reshape", "Split", "RotaryEmbedding", "Mul", "Div"):
            new = makers[new.input[0]]
        assert new.op_type == "Where"
    if bundle_format.load(made / family).description.model_config.decoder.causal:
        return
    admit = far(made / family).graph("admit")
    shapes = {"slots": (2, 1, 1, 1), "rows": (2,), "positions": (1, 1, 3, 1)}
    heads, head_dim = graph.input[-1].type.tensor_type.shape.dim[1::2]
    size = heads.dim_value, head_dim.dim_value
    feeds: dict[str, Any] = {}
    for name in admit.inputs:
        if name in shapes:
            feeds[name] = np.arange(np.prod(shapes[name])).reshape(shapes[name])
        else:
            places = 3 if name.startswith("encoded.") else 5
            feeds[name] = np.ones((2, size[0], places, size[1]), np.float32)
    given = next(name for name in admit.inputs if name.startswith("encoded."))
    feeds[given][0, 0, 0, :3] = np.nan, np.inf, -np.inf
    (held,) = map(np.asarray, admit.run(feeds, [given.replace("encoded.", "filled.")]))
    held = far(made / family).host(held) if held.dtype == object else held
    assert held[0, 0, 0, :3].tolist() == [0, 0, 0]
    assert (held.ravel()[3:] == 1).all()


@pytest.mark.parametrize("family", ["t5", "gpt2"])
def test_a_first_call_that_is_carried_out_twice_is_no_step_too_many(
    made: Path, family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As ONNX Runtime does it with a graph that it captures: once to warm up, once captured."""
    bind = LateGraph.bind

    def twice(self: LateGraph, inputs: Any, outputs: Any) -> Any:
        call, calls = bind(self, inputs, outputs), []

        def first_twice() -> None:
            if not calls and self.name == "device_step":
                call()
            calls.append(1)
            call()

        return first_twice

    feeds = rows(9)
    wanted = told(near(made / family), made / family, feeds, max_new_tokens=40)
    monkeypatch.setattr(LateGraph, "bind", twice)
    monkeypatch.setattr(device_cache, "POSITIONS", 4)
    assert told(far(made / family), made / family, feeds, max_new_tokens=40) == wanted
    given = {"search": {"num_beams": 3}}
    assert told(far(made / family), made / family, feeds, **given) == told(
        near(made / family), made / family, feeds, **given
    )
