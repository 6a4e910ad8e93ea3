"""What the engine asks of an inference runtime; all that tasks and generation see of it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Protocol, TypeVar

from numpy.typing import NDArray

from engine.core.device import Device
from engine.core.graphs import Role

T = TypeVar("T")
Value = Any
"""An array where the backend keeps it: NumPy on the host, or the runtime's own handle."""


class Graph(Protocol):
    """One ONNX graph, loaded."""

    @property
    def inputs(self) -> tuple[str, ...]: ...

    @property
    def outputs(self) -> tuple[str, ...]: ...

    @property
    def dtypes(self) -> Mapping[str, Any]:
        """NumPy dtype of each input and output; None for types that the engine does not use."""

    def run(self, feeds: Mapping[str, Value], fetch: Sequence[str]) -> list[Value]:
        """Compute the outputs named in `fetch`, in that order; may be called by many threads.

        Takes NumPy arrays and this backend's own values, mixed; gives its own values.
        """

    def bind(self, inputs: Mapping[str, Value], outputs: Mapping[str, Value]) -> Callable[[], None]:
        """A call that computes from buffers into buffers; one may be both. Arrays and values among
        the inputs are read as they are now.

        The call may return before it has finished; whatever reads its results waits for it."""


class Backend(Protocol):
    """An inference runtime on one device. Tests have fakes of it."""

    @property
    def device(self) -> Device:
        """What computes."""

    @property
    def ran(self) -> Mapping[str, Any]:
        """The same in detail, as JSON values: `device.ExecutionInfo` of the real one."""

    @property
    def cache_bytes(self) -> int:
        """Bytes that the KV caches of one decoding may take up."""

    @property
    def roles(self) -> Collection[Role]:
        """Those of the graphs that are loaded."""

    def graph(self, role: Role, beams: int = 1) -> Graph:
        """The graph of this role. In the decode step on a host so many slots, one behind the other,
        share a source: `source_last`, `cross.N` and `last.N` have an entry for all of them."""

    def host(self, value: Value) -> NDArray[Any]:
        """A value as a NumPy array on the host; for a buffer on the CPU, a view of its memory."""

    def buffer(self, shape: Sequence[int], dtype: Any, old: Value | None = None) -> Value:
        """Memory at a fixed address, for `Graph.bind`: an old buffer's where that is large enough,
        with its content, or else zeros. On a GPU only `Graph.bind` takes a buffer in an old one's
        memory."""

    def parts(self, buffer: Value) -> list[Value]:
        """The entries of a buffer on the host along its first axis, as buffers in its memory."""

    def put(self, buffer: Value, array: NDArray[Any]) -> None:
        """Overwrite a whole buffer."""

    def stoppable(self) -> tuple[Backend, Callable[[], None]]:
        """This backend once more, sharing its graphs, and what ends all calls of that one, now and
        later: each raises Stopped, and its outputs are not to be read. Calls of this one go on."""

    def serially(self, call: Callable[[], T]) -> T:
        """The result of call(), which binds graphs and launches them. Where launches are captured,
        all such calls run one after another on one thread, since a capture belongs to its thread.
        """
