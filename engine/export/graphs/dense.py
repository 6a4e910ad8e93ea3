"""sentence-transformers' layers behind the pooling as one small graph: Dense, LayerNorm, Normalize.

A Dense is `activation(embedding @ weight.T + bias)`. transformers and Optimum do not support these
modules, so the graph is written here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.errors import ExportError
from engine.export.checkpoint import embedding_modules
from engine.export.checkpoint.conversion import OPSET
from engine.export.checkpoint.hub import Checkpoint
from engine.export.checkpoint.module_list import Module


@dataclass(frozen=True)
class DenseLayer:
    """One Dense module.

    Attributes:
        activation: A key of `ACTIVATIONS`.
        weight: float32 (out, in), NumPy.
        bias: float32 (out,), zeros where the module has none.
        residual: Whether what comes in is added to what comes out.
        residual_weight: float32 (out, in), applied to it before; None where the widths are equal.
    """

    activation: str
    weight: Any
    bias: Any
    residual: bool = False
    residual_weight: Any = None


@dataclass(frozen=True)
class LayerNorm:
    """One LayerNorm module: weight and bias, float32 (width,), NumPy."""

    weight: Any
    bias: Any


@dataclass(frozen=True)
class Normalize:
    """A Normalize module that one of the others follows."""


Layer = DenseLayer | LayerNorm | Normalize
# torch.nn.LayerNorm's epsilon, and torch.nn.functional.normalize's.
_NORM_EPSILON, _LENGTH_EPSILON = 1e-5, 1e-12


def load(checkpoint: Checkpoint) -> tuple[Layer, ...]:
    """The layers behind a checkpoint's pooling, in order; torch loads pickled ones with
    weights_only.

    Raises:
        ExportError: A layer has an unsupported setting, or weights that do not fit its
            config.json.
    """
    layers: list[Layer] = []
    for module in embedding_modules.read(checkpoint).layers:
        if module.kind == "Normalize":
            layers.append(Normalize())
        elif module.kind == "LayerNorm":
            layers.append(_layer_norm(checkpoint, module))
        else:
            layers.append(_dense(checkpoint, module))
    return tuple(layers)


def graph(layers: Sequence[Layer]) -> Any:
    """The layers as an ONNX ModelProto.

    Its input is embedding (batch, in), its output projected (batch, out), both float32.
    """
    from onnx import TensorProto, helper

    body = _Graph()
    at = "embedding"
    weights = [layer.weight for layer in layers if not isinstance(layer, Normalize)]
    for number, layer in enumerate(layers):
        at = _WRITERS[type(layer)](body, at, number, layer)
    body.add("Identity", [at], "projected")
    body_graph = helper.make_graph(
        body.nodes,
        "dense",
        [_declared("embedding", TensorProto.FLOAT, weights[0].shape[-1])],
        [_declared("projected", TensorProto.FLOAT, weights[-1].shape[0])],
        body.weights,
    )
    opset = [helper.make_opsetid("", OPSET)]
    return helper.make_model(
        body_graph, opset_imports=opset, ir_version=8, producer_name="corpus-engine"
    )


def reference(layers: Sequence[Layer], embedding: Any) -> Any:
    """What torch computes from embeddings (rows, in), float32: (rows, out)."""
    import torch

    value = torch.from_numpy(embedding)
    for layer in layers:
        value = _REFERENCES[type(layer)](layer, value)
    return value.numpy()


_AGAIN = "fetch the whole checkpoint once more; sentence-transformers saves it complete"
_OTHER = "export another checkpoint; this one's embeddings would come out different"


def _dense(checkpoint: Checkpoint, module: Module) -> DenseLayer:
    settings = embedding_modules.read_config(checkpoint, module)
    embedding_modules.check_names(checkpoint, module, settings)
    unknown = [key for key in settings if key not in _DENSE_KEYS]
    activation = str(settings.get("activation_function", "torch.nn.modules.activation.Tanh"))
    kind = activation.rsplit(".", 1)[-1]
    if unknown or kind not in ACTIVATIONS or not activation.startswith("torch.nn."):
        what = f"the keys {', '.join(unknown)}" if unknown else f"the activation {activation}"
        raise ExportError(
            f"{checkpoint.name}: {module.path} has {what}; "
            f"supported are {', '.join(_DENSE_KEYS if unknown else ACTIVATIONS)}",
            _OTHER,
        )
    shape = (settings.get("out_features"), settings.get("in_features"))
    residual = bool(settings.get("use_residual"))
    projects = residual and shape[0] != shape[1]
    weights = _weights(
        checkpoint,
        module,
        {
            "linear.weight": shape,
            **({"linear.bias": shape[:1]} if settings.get("bias", True) else {}),
            **({"residual.weight": shape} if projects else {}),
        },
    )
    weight = weights["linear.weight"]
    bias = weights.get("linear.bias", weight[:, 0] * 0)
    return DenseLayer(kind, weight, bias, residual, weights.get("residual.weight"))


_DENSE_KEYS = (
    "in_features", "out_features", "bias", "activation_function", "module_input_name",
    "module_output_name", "use_residual",
)  # fmt: skip


def _layer_norm(checkpoint: Checkpoint, module: Module) -> LayerNorm:
    width = (embedding_modules.read_config(checkpoint, module).get("dimension"),)
    weights = _weights(checkpoint, module, {"norm.weight": width, "norm.bias": width})
    return LayerNorm(weights["norm.weight"], weights["norm.bias"])


def _weights(
    checkpoint: Checkpoint, module: Module, shapes: Mapping[str, tuple[Any, ...]]
) -> dict[str, Any]:
    """The weights of a layer by name, float32, NumPy."""
    file = checkpoint.layer_weights(module.path)
    try:
        state = _state(file)
        weights = {name: state[name].float().numpy() for name in shapes}
    except Exception as error:  # torch and safetensors raise a dozen classes here
        raise ExportError(
            f"{checkpoint.name}: {module.path}/{file.name} cannot be read: {type(error).__name__}",
            _AGAIN,
        ) from error
    for name, shape in shapes.items():
        if weights[name].shape != shape:
            raise ExportError(
                f"{checkpoint.name}: the weights in {module.path} have the shape "
                f"{weights[name].shape}, its config.json says {shape}",
                _AGAIN,
            )
    return weights


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

    def constant(self, name: str, value: Any, dtype: str = "float32") -> str:
        import numpy as np
        from onnx import numpy_helper

        array = np.asarray(value, dtype)
        self.weights.append(numpy_helper.from_array(array, name))
        return name

    def add(self, op: str, inputs: list[str], output: str = "", **attributes: Any) -> str:
        from onnx import helper

        name = output or f"{op}.{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, inputs, [name], name, **attributes))
        return name


def _write_dense(body: _Graph, at: str, number: int, layer: DenseLayer) -> str:
    weight = body.constant(f"{number}.weight", layer.weight)
    bias = body.constant(f"{number}.bias", layer.bias)
    out = ACTIVATIONS[layer.activation](body, body.add("Gemm", [at, weight, bias], transB=1))
    if layer.residual_weight is not None:
        residual = body.constant(f"{number}.residual", layer.residual_weight)
        at = body.add("Gemm", [at, residual], transB=1)
    return body.add("Add", [out, at]) if layer.residual else out


def _write_layer_norm(body: _Graph, at: str, number: int, layer: LayerNorm) -> str:
    weight = body.constant(f"{number}.weight", layer.weight)
    bias = body.constant(f"{number}.bias", layer.bias)
    return body.add("LayerNormalization", [at, weight, bias], epsilon=_NORM_EPSILON)


def _write_normalize(body: _Graph, at: str, number: int, layer: Normalize) -> str:
    axes = body.constant(f"{number}.axes", [1], "int64")
    least = body.constant(f"{number}.least", _LENGTH_EPSILON)
    length = body.add("ReduceL2", [at, axes], keepdims=1)
    return body.add("Div", [at, body.add("Max", [length, least])])


_WRITERS: Mapping[type, Callable[[_Graph, str, int, Any], str]] = {
    DenseLayer: _write_dense,
    LayerNorm: _write_layer_norm,
    Normalize: _write_normalize,
}


def _torch_dense(layer: DenseLayer, value: Any) -> Any:
    import torch

    linear = torch.nn.functional.linear
    weight, bias = torch.from_numpy(layer.weight), torch.from_numpy(layer.bias)
    out = getattr(torch.nn, layer.activation)()(linear(value, weight, bias))
    if layer.residual_weight is not None:
        value = linear(value, torch.from_numpy(layer.residual_weight))
    return out + value if layer.residual else out


def _torch_layer_norm(layer: LayerNorm, value: Any) -> Any:
    import torch

    weight, bias = torch.from_numpy(layer.weight), torch.from_numpy(layer.bias)
    return torch.nn.functional.layer_norm(value, weight.shape, weight, bias, _NORM_EPSILON)


def _torch_normalize(layer: Normalize, value: Any) -> Any:
    import torch

    return torch.nn.functional.normalize(value, p=2, dim=1)


_REFERENCES: Mapping[type, Callable[[Any, Any], Any]] = {
    DenseLayer: _torch_dense,
    LayerNorm: _torch_layer_norm,
    Normalize: _torch_normalize,
}


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
