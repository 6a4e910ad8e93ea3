"""PyTorch checkpoint -> transformers model -> Optimum's ONNX graph of an encoder."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from engine.errors import ExportError
from engine.export.checkpoint import (
    decoder_limits,
    export_table,
    family_reasons,
    labels,
    longt5_encoder,
    weight_files,
)
from engine.export.checkpoint.hub import Checkpoint
from engine.export.checkpoint.normalized_config import normalized_config
from engine.export.checkpoint.silenced import silenced
from engine.export.checkpoint.task_inference import ExportTask
from engine.export.checkpoint.weight_files import PICKLES, SAFETENSORS

# One operator set for every architecture. From 17 on there is LayerNormalization, from 18 on
# ReduceMax takes its axes as an input.
OPSET = 18

# Model types whose every encoder task is exported.
ENCODERS = (
    "bert", "distilbert", "roberta", "xlm-roberta", "albert", "electra", "mpnet", "deberta-v2",
    "modernbert", "camembert", "deberta", "ernie",
)  # fmt: skip

# Encoders that Optimum does not name, and the type whose inputs and outputs they have.
_TRACED_AS = {"umt5": "t5", "plbart": "bart", "mvp": "bart"}

# Inputs that a run has.
_TEXT_INPUTS = {"input_ids", "attention_mask", "token_type_ids", "position_ids"}

# Weights that a checkpoint may lack because the exported outputs do not depend on them.
_UNUSED = ("pooler.",)


def load(checkpoint: Checkpoint, task: ExportTask) -> Any:
    """The checkpoint as a transformers model: float32, evaluation mode, nothing from the network.

    Always float32, whatever precision the weights are stored in: the graphs and the parity check's
    reference have to be of one precision, and T5 overflows in float16.

    Raises:
        ExportError: The architecture does not fit the task, or weights are missing or damaged.
    """
    import torch
    import transformers

    loader = getattr(transformers, task.auto_class)
    try:
        with silenced():
            model, info = loader.from_pretrained(
                checkpoint.folder,
                local_files_only=True,
                trust_remote_code=False,
                use_safetensors=not checkpoint.pickled,
                dtype=torch.float32,
                output_loading_info=True,
                # They are refused below, with their shapes.
                ignore_mismatched_sizes=True,
                **_attention(checkpoint.config),
            )
    except Exception as error:  # transformers raises a dozen classes here
        raise ExportError(
            f"{checkpoint.name}: transformers cannot load it for {task.name}: {_brief(error)}",
            "check that the checkpoint is complete and was trained for this task",
        ) from error
    if checkpoint.shares_head and "lm_head.weight" in info["missing_keys"]:
        model.lm_head.weight = model.shared.weight
        info["missing_keys"].remove("lm_head.weight")
    _find_embedding(model, checkpoint)
    _check_complete(checkpoint, task, model, info)
    _extend_positions(model)
    return model.eval()


def _attention(config: Mapping[str, Any]) -> dict[str, str]:
    """GPT-2's settings of the attention's scale and Gemma 2's bound of its scores are followed by
    transformers' eager attention only: its default, SDPA, ignores them."""
    scaled = config.get("scale_attn_by_inverse_layer_idx") or not config.get(
        "scale_attn_weights", True
    )
    bounded = config.get("attn_logit_softcapping", 50.0 if _is_gemma2(config) else None)
    return {"attn_implementation": "eager"} if scaled or bounded else {}


def _is_gemma2(config: Mapping[str, Any]) -> bool:
    return bool(config.get("model_type") == "gemma2")


def _find_embedding(model: Any, checkpoint: Checkpoint) -> None:
    """Take the embedding from the file under the names of weights that are tied to it.

    transformers 4.57 looks for it under its own name alone, and leaves it without values.
    """
    embedding = model.get_input_embeddings()
    if not embedding.weight.is_meta:
        return
    import torch
    from transformers.modeling_utils import load_state_dict

    tied = set(model._tied_weights_keys or ())
    kind = PICKLES if checkpoint.pickled else SAFETENSORS
    for file in weight_files.stored(checkpoint.folder, kind):
        state = load_state_dict(str(file), map_location="cpu", weights_only=True)
        for name in tied & set(state):
            embedding.weight = torch.nn.Parameter(state[name].float())
            model.tie_weights()


def _extend_positions(model: Any) -> None:
    """Make M2M100's tables of positions whole: they grow at run time, which a graph cannot."""
    if model.config.model_type != "m2m_100":
        return
    for table in (model.model.encoder.embed_positions, model.model.decoder.embed_positions):
        rows = model.config.max_position_embeddings + table.padding_idx + 1
        table.make_weights(rows, table.embedding_dim, table.padding_idx)


def trace(model: Any, task: ExportTask, folder: Path) -> Any:
    """An encoder's graph as Optimum traces it, an ONNX ModelProto.

    Of a model that generates this is its encoder alone: decoders are built from weights
    (`graphs.decoder_builder`).

    Args:
        folder: Where Optimum may leave its files.

    Raises:
        ExportError: Optimum or torch failed; their reason is in the message.
    """
    import onnx

    if _classifies_at_the_end(model):
        model.forward = _last_end_token(model)
    try:
        with silenced():
            file = _export_encoder(model, task, folder)
    except Exception as error:
        raise ExportError(
            f"Optimum cannot export {model.config.model_type!r} for {task.name}: {_brief(error)}",
            "try another checkpoint of the same family, or another --task",
        ) from error
    return onnx.load(file)


def _export_encoder(model: Any, task: ExportTask, folder: Path) -> Path:
    from optimum.exporters.onnx import export, onnx_export_from_model

    table = export_table.tasks_manager()
    if task.decodes:
        model_type = model.config.model_type
        constructor = table.get_exporter_config_constructor(
            model_type=_TRACED_AS.get(model_type, model_type),
            exporter="onnx",
            task=task.optimum_task,
            library_name="transformers",
        )
        config = constructor(model.config).with_behavior("encoder")
        encoder, shapes = model.get_encoder(), None
        if model_type == "longt5":
            shapes = longt5_encoder.prepare(encoder)
        export(encoder, config, folder / "encoder.onnx", opset=OPSET, input_shapes=shapes)
        return folder / "encoder.onnx"
    # Optimum's own validation compares random inputs and only warns.
    onnx_export_from_model(
        model,
        folder,
        task=task.optimum_task,
        opset=OPSET,
        no_post_process=True,
        do_validation=False,
    )
    return folder / "model.onnx"


def _classifies_at_the_end(model: Any) -> bool:
    return bool(hasattr(model, "classification_head") and model.config.is_encoder_decoder)


def _last_end_token(model: Any) -> Callable[..., Any]:
    """BART's and mBART's classification, row by row.

    transformers takes the states at all end tokens of a batch as one list and needs as many of them
    in every row, which a row whose text spells the end token has not.
    """
    import torch
    from transformers.modeling_outputs import SequenceClassifierOutput

    def forward(input_ids: Any, attention_mask: Any) -> Any:
        states = model.model(input_ids, attention_mask=attention_mask, use_cache=False)[0]
        ends = (input_ids == model.config.eos_token_id).to(torch.int64)
        last = (ends * torch.arange(1, input_ids.shape[1] + 1)).argmax(dim=1)
        index = last[:, None, None].expand(-1, 1, states.shape[2])
        return SequenceClassifierOutput(
            logits=model.classification_head(states.gather(1, index)[:, 0])
        )

    return forward


def check_supported(checkpoint: Checkpoint, task: ExportTask) -> None:
    """Ask Optimum's table, before any weights are fetched or loaded. Models that generate are of
    families whose encoders it exports, if they have one.

    Raises:
        ExportError: Optimum has no export of this architecture for this task, or the decoder has
            something that step graphs do not compute.
    """
    if task.decodes:
        decoder_limits.check(checkpoint.name, checkpoint.config)
        return
    model_type = checkpoint.config["model_type"]
    families = ", ".join(task.model_types or (*ENCODERS, *task.also))
    hint = f"for {task.name} take a checkpoint of one of the types {families}"
    if why := family_reasons.ENCODERS.get(model_type):
        raise ExportError(f"{checkpoint.name}: a {model_type!r} is not exported: {why}", hint)
    tasks: Any = {}
    # Some of its names are written with a dash where transformers has an underscore.
    for name in (model_type, model_type.replace("_", "-")):
        with suppress(KeyError):
            tasks = tasks or export_table.tasks_manager().get_supported_tasks_for_model_type(
                name, "onnx", library_name="transformers"
            )
    if task.optimum_task in tasks:
        _check_inputs(checkpoint, task, tasks[task.optimum_task], hint)
        return
    can = f"only for {', '.join(sorted(tasks))}" if tasks else "for nothing"
    raise ExportError(
        f"{checkpoint.name}: Optimum exports the architecture {model_type!r} {can}, "
        f"not for {task.optimum_task}",
        hint,
    )


def _check_inputs(checkpoint: Checkpoint, task: ExportTask, constructor: Any, hint: str) -> None:
    """Refuse a graph that would read more than a text, such as places on a page."""
    from transformers import AutoConfig

    settings = normalized_config(checkpoint.name, checkpoint.config)
    try:
        with silenced():
            config = AutoConfig.for_model(**settings)
            inputs = set(constructor(config, task=task.optimum_task).inputs)
    except Exception:
        return
    if more := sorted(inputs - _TEXT_INPUTS):
        raise ExportError(
            f"{checkpoint.name}: a {checkpoint.config['model_type']!r} reads more than text: "
            f"{', '.join(more)}",
            hint,
        )


def _check_complete(
    checkpoint: Checkpoint, task: ExportTask, model: Any, info: dict[str, Any]
) -> None:
    """transformers fills missing weights with random numbers and only warns."""
    missing = sorted(name for name, weight in model.named_parameters() if weight.is_meta)
    missing += sorted(k for k in info["missing_keys"] if not k.startswith(_UNUSED))
    if missing:
        raise ExportError(
            f"{checkpoint.name}: the checkpoint lacks weights that {task.name} needs: "
            f"{', '.join(missing[:4])}",
            _lacking(missing[0], info["unexpected_keys"]),
        )
    if wrong := sorted(info["mismatched_keys"]):
        shape = " × ".join(map(str, model.state_dict()[wrong[0]].shape))
        inside = any(name.startswith(f"{model.base_model_prefix}.") for name in wrong)
        labelled = task.auto_class in labels.LABELLED and not inside
        what = ": id2label or num_labels names more or fewer logits than the head has"
        raise ExportError(
            f"{checkpoint.name}: the weights have other shapes than config.json gives them: "
            f"{', '.join(wrong[:4])} ({wrong[0]} has {_stored_shape(checkpoint, wrong[0])}, not "
            f"{shape}){what if labelled else ''}",
            "config.json and the weights are of different models: correct config.json, or fetch "
            "the checkpoint once more",
        )


def _lacking(missing: str, others: Iterable[str]) -> str:
    """A hint for a checkpoint without a weight, by the names that it has instead."""
    if renamed := [name for name in sorted(others) if name.endswith(f".{missing}")]:
        return (
            f"it has {renamed[0]}, saved from within another model: save that model's own part "
            "with save_pretrained"
        )
    return (
        "it was not trained for this task, or is incomplete: choose another --task or another "
        "checkpoint"
    )


def _stored_shape(checkpoint: Checkpoint, name: str) -> str:
    """The shape of a weight in the checkpoint's safetensors."""
    from safetensors import safe_open

    for file in checkpoint.weights:
        if file.suffix == ".safetensors":
            with safe_open(file, "pt") as stored:
                if name in stored.keys():  # noqa: SIM118  (not a mapping)
                    return " × ".join(map(str, stored.get_slice(name).get_shape()))
    return "another shape"


def read_config(checkpoint: Checkpoint) -> Any:
    """The checkpoint's configuration as transformers reads it; no weights are needed.

    Raises:
        ExportError: transformers cannot read it.
    """
    from transformers import CONFIG_MAPPING

    config = normalized_config(checkpoint.name, checkpoint.config)
    try:
        with silenced():
            return CONFIG_MAPPING[config["model_type"]].from_dict(dict(config))
    except Exception as error:  # transformers raises a dozen classes here, too
        raise ExportError(
            f"{checkpoint.name}: transformers cannot read its config.json: {_brief(error)}",
            "correct config.json, or fetch the checkpoint once more",
        ) from error


def _brief(error: BaseException) -> str:
    """The first line of a foreign message, which can be pages long."""
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0][:300]}"
