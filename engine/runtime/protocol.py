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
        """NumPy dtype of each input and output."""

    def run(self, feeds: Mapping[str, Value], fetch: Sequence[str]) -> list[Value]:
        """Compute the outputs named in `fetch`, in that order; may be called by many threads.

        Takes NumPy arrays and this backend's own values, mixed; gives its own values.
        """

    def bind(self, inputs: Mapping[str, Value], outputs: Mapping[str, Value]) -> Callable[[], None]:
        """A call that computes from buffers into buffers; one may be both. Arrays and values among
        the inputs stay what they are.

        It need not be over when the call returns, but whatever is asked for behind it waits."""


class Backend(Protocol):
    """Where the heavy thing begins. `backend.OrtBackend` is the real one; tests have fakes."""

    @property
    def device(self) -> Device:
        """What really runs."""

    @property
    def ran(self) -> Mapping[str, Any]:
        """The same at length, as JSON values: `device.ExecutionInfo` of the real one."""

    @property
    def room(self) -> int:
        """Bytes that the caches of one call of a decoder may take up."""

    @property
    def roles(self) -> Collection[Role]:
        """Of the graphs that are loaded."""

    def graph(self, role: Role) -> Graph:
        """The one of this role."""

    def host(self, value: Value) -> NDArray[Any]:
        """A value as a NumPy array on the host; of a buffer on the CPU, its very memory."""

    def buffer(self, shape: Sequence[int], dtype: Any, old: Value | None = None) -> Value:
        """Memory that stays where it is, for `Graph.bind`: that of an old buffer where it is large
        enough, with whatever is in it, or else zeros. On a GPU, nothing but `Graph.bind` takes
        what lies in an old one."""

    def put(self, buffer: Value, array: NDArray[Any]) -> None:
        """Write a buffer, whole."""

    def alone(self, call: Callable[[], T]) -> T:
        """call(), which binds graphs and launches them: where the device captures launches, on one
        thread always, since a capture belongs to its thread, and one such call after the other."""

    def first(self, buffer: Value, rows: int) -> Value:
        """The first rows of a buffer on the host, as a buffer over the same memory."""
