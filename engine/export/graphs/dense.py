"""sentence-transformers' Dense layers, which follow the pooling, as one small graph.

`projected = activation(embedding @ weight.T + bias)`, layer by layer; transformers and Optimum do
not support them, so the graph is written here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.errors import ExportError
from engine.export.checkpoint.conversion import OPSET
from engine.export.checkpoint.hub import Checkpoint


@dataclass(frozen=True)
class DenseLayer:
    """One Dense module.

    Attributes:
        activation: A key of `ACTIVATIONS`.
        weight: float32 (out, in), NumPy.
        bias: float32 (out,), zeros where the module has none.
    """

    activation: str
    weight: Any
    bias: Any


def load(checkpoint: Checkpoint) -> tuple[DenseLayer, ...]:
    """The Dense layers of a checkpoint, in order; torch loads pickled ones with weights_only.

    Raises:
        ExportError: A layer has an unsupported setting, or weights that do not fit its
            config.json.
    """
    return tuple(_layer(checkpoint, path) for kind, path in checkpoint.modules if kind == "Dense")


def graph(layers: Sequence[DenseLayer]) -> Any:
    """The layers as an ONNX ModelProto.

    Its input is embedding (batch, in), its output projected (batch, out), both float32.
    """
    from onnx import TensorProto, helper

    body = _Graph()
    at = "embedding"
    for number, layer in enumerate(layers):
        weight = body.constant(f"{number}.weight", layer.weight)
        bias = body.constant(f"{number}.bias", layer.bias)
        at = body.add("Gemm", [at, weight, bias], transB=1)
        at = ACTIVATIONS[layer.activation](body, at)
    body.add("Identity", [at], "projected")
    body_graph = helper.make_graph(
        body.nodes,
        "dense",
        [_declared("embedding", TensorProto.FLOAT, layers[0].weight.shape[1])],
        [_declared("projected", TensorProto.FLOAT, layers[-1].weight.shape[0])],
        body.weights,
    )
    opset = [helper.make_opsetid("", OPSET)]
    return helper.make_model(
        body_graph, opset_imports=opset, ir_version=8, producer_name="corpus-engine"
    )


def reference(layers: Sequence[DenseLayer], embedding: Any) -> Any:
    """What torch computes from embeddings (rows, in), float32: (rows, out)."""
    import torch

    value = torch.from_numpy(embedding)
    for layer in layers:
        weight, bias = torch.from_numpy(layer.weight), torch.from_numpy(layer.bias)
        value = getattr(torch.nn, layer.activation)()(
            torch.nn.functional.linear(value, weight, bias)
        )
    return value.numpy()


_AGAIN = "fetch the whole checkpoint once more; sentence-transformers saves it complete"
_OTHER = "export another checkpoint; this one's embeddings would come out different"


def _layer(checkpoint: Checkpoint, path: str) -> DenseLayer:
    settings = checkpoint.read_json(f"{path}/config.json")
    activation = str(settings.get("activation_function", "torch.nn.modules.activation.Tanh"))
    kind = activation.rsplit(".", 1)[-1]
    names = [settings.get(f"module_{side}_name") for side in ("input", "output")]
    if any(name not in (None, "sentence_embedding") for name in names):
        raise ExportError(
            f"{checkpoint.name}: {path} does not follow the pooling "
            f"({' to '.join(map(str, names))})",
            _OTHER,
        )
    if kind not in ACTIVATIONS or not activation.startswith("torch.nn."):
        raise ExportError(
            f"{checkpoint.name}: {path} has the activation {activation}; "
            f"supported are {', '.join(ACTIVATIONS)}",
            _OTHER,
        )
    weight, bias = _weights(checkpoint, path, settings.get("bias", True))
    shape = (settings.get("out_features"), settings.get("in_features"))
    if weight.shape != shape or bias.shape != shape[:1]:
        raise ExportError(
            f"{checkpoint.name}: the weights in {path} have the shape {weight.shape}, "
            f"its config.json says {shape}",
            _AGAIN,
        )
    return DenseLayer(kind, weight, bias)


def _weights(checkpoint: Checkpoint, path: str, biased: bool) -> tuple[Any, Any]:
    """Weight and bias of a layer, float32."""
    import numpy as np

    file = checkpoint.layer_weights(path)
    try:
        state = _state(file)
        weight = state["linear.weight"].float().numpy()
        bias = state["linear.bias"].float().numpy() if biased else np.zeros(len(weight), np.float32)
    except Exception as error:  # torch and safetensors raise a dozen classes here
        raise ExportError(
            f"{checkpoint.name}: {path}/{file.name} cannot be read: {type(error).__name__}", _AGAIN
        ) from error
    return weight, bias


def _state(file: Path) -> Mapping[str, Any]:
    import torch
    from safetensors.torch import load_file

    safe = file.suffix == ".safetensors"
    state: Mapping[str, Any] = load_file(file) if safe else torch.load(file, weights_only=True)
    return state


def _declared(name: str, element: int, width: int) -> Any:
    from onnx import helper

    return helper.make_tensor_value_info(name, element, ["batch", width])


class _Graph:
    """Nodes and constants of a graph that is being written, in order."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.weights: list[Any] = []

    def constant(self, name: str, value: Any) -> str:
        import numpy as np
        from onnx import numpy_helper

        array = np.ascontiguousarray(value, np.float32)
        self.weights.append(numpy_helper.from_array(array, name))
        return name

    def add(self, op: str, inputs: list[str], output: str = "", **attributes: Any) -> str:
        from onnx import helper

        name = output or f"{op}.{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, inputs, [name], name, **attributes))
        return name


def _plain(op: str) -> Callable[[_Graph, str], str]:
    return lambda body, at: body.add(op, [at])


def _unchanged(body: _Graph, at: str) -> str:
    return at


def _silu(body: _Graph, at: str) -> str:
    return body.add("Mul", [at, body.add("Sigmoid", [at])])


def _gelu(body: _Graph, at: str) -> str:
    """x / 2 * (1 + erf(x / sqrt 2)), as torch.nn.GELU has it; the operator came in opset 20."""
    tag = len(body.nodes)
    half, one = body.constant(f"{tag}.half", 0.5), body.constant(f"{tag}.one", 1.0)
    root = body.constant(f"{tag}.root", 2.0**0.5)
    error = body.add("Erf", [body.add("Div", [at, root])])
    return body.add("Mul", [body.add("Mul", [at, half]), body.add("Add", [error, one])])


# Classes of torch.nn, and the function that writes each.
ACTIVATIONS: Mapping[str, Callable[[_Graph, str], str]] = {
    "Identity": _unchanged,
    "Tanh": _plain("Tanh"),
    "ReLU": _plain("Relu"),
    "GELU": _gelu,
    "Sigmoid": _plain("Sigmoid"),
    "SiLU": _silu,
}
