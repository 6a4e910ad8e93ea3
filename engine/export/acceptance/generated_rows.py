"""The rows that a bundle generates by its stored settings are those of transformers' pipeline."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from engine.bundle.format import BundleFolder, Description, ModelConfig
from engine.core.device import CPU
from engine.core.token_limit import TokenLimit
from engine.errors import ExportError
from engine.export.checkpoint import generation_config
from engine.export.checkpoint.silenced import silenced
from engine.export.checkpoint.task_inference import ExportTask
from engine.export.sentences import SENTENCES, token_limit

# Of `SENTENCES`, as many as this that the model reads whole: the pipeline cuts none.
_CANDIDATES, _ROWS = (1, 2, 4, 8, 7, 3, 0), 4
# New tokens at most, where the checkpoint allows more.
_MOST = 16
# The share of rows that a near-tie may change before the export is refused: two candidates whose
# scores are equal but for rounding may come in either order.
_NEAR_TIES = 0.25


@dataclass(frozen=True)
class GeneratedRows:
    """What the pipeline gives for some rows, sampling turned off.

    Attributes:
        texts, answers: The rows; empty where they cannot be compared.
        arguments: What the pipeline was called with.
        reason: Why they cannot be, or "".
    """

    texts: tuple[str, ...] = ()
    answers: tuple[str, ...] = ()
    arguments: dict[str, Any] = field(default_factory=dict)
    reason: str = ""


Check = Callable[[Path, Description, Callable[[], Any]], dict[str, Any]]


def rows_check(
    model: Any, tokenizer: Any, task: ExportTask, requested: str, model_config: ModelConfig
) -> Check:
    """Have transformers' pipeline generate, before Optimum's export of the model, which leaves
    other settings behind.

    Args:
        requested: The task as the user named it, such as translation_en_to_de.

    Returns:
        (the bundle's folder, its description, which need not be written yet, what loads the model
        in double precision, called where rows differ) -> what belongs to `Description.proof`:
        generated_rows and same_generated_rows, or generated_rows 0 and the reason; {} for a model
        that does not generate. Raises ExportError where more rows differ than near-ties explain.
    """
    if not task.decodes:
        return lambda folder, description, double: {}

    def reference(model: Any, like: GeneratedRows | None = None) -> GeneratedRows:
        return _reference(model, tokenizer, task, requested, model_config, like)

    rows = reference(model)
    return lambda folder, description, double: _compared(
        folder, description, rows, lambda: reference(double(), rows)
    )


def _reference(
    model: Any,
    tokenizer: Any,
    task: ExportTask,
    requested: str,
    model_config: ModelConfig,
    like: GeneratedRows | None,
) -> GeneratedRows:
    """What the pipeline makes of some of the shared sentences, or of earlier rows once more."""
    pipe = generation_config.pipeline(model, tokenizer, task, requested)
    if unsupported := generation_config.unsupported(model, pipe):
        return GeneratedRows(reason=f"the checkpoint asks for {', '.join(unsupported)}")
    arguments = like.arguments if like else _arguments(model_config)
    answers: dict[str, str] = {}
    reason = ""
    for text in like.texts if like else _texts(tokenizer, model_config):
        try:
            with silenced():
                (record,) = pipe(text, **arguments)
        except Exception as error:  # transformers raises a dozen classes here
            reason = f"the pipeline raises {type(error).__name__}"
            continue
        answers[text] = next(value for name, value in record.items() if name.endswith("_text"))
    return GeneratedRows(tuple(answers), tuple(answers.values()), arguments, reason)


def _texts(tokenizer: Any, model_config: ModelConfig) -> list[str]:
    texts = [SENTENCES[n] for n in _CANDIDATES]
    with silenced():
        rows = tokenizer([model_config.prefix + text for text in texts]).input_ids
    limit = token_limit(model_config)
    return [text for text, ids in zip(texts, rows, strict=True) if len(ids) <= limit][:_ROWS]


def _arguments(model_config: ModelConfig) -> dict[str, Any]:
    assert model_config.decoder
    limit = TokenLimit.of(model_config.decoder.max_new_tokens)
    arguments: dict[str, Any] = {"do_sample": False, "num_return_sequences": 1}
    if limit.fixed is None or limit.fixed > _MOST:
        arguments["max_new_tokens"] = _MOST
    if languages := model_config.languages:
        target = languages.target or min(languages.ids)
        arguments |= {"src_lang": languages.source, "tgt_lang": target}
    return arguments


def _compared(
    folder: Path,
    description: Description,
    rows: GeneratedRows,
    in_double: Callable[[], GeneratedRows],
) -> dict[str, Any]:
    """Answer the rows with the bundle in `folder`; see `rows_check`."""
    if not rows.texts:
        return {"generated_rows": 0, "generated_rows_reason": rows.reason}
    answers = _answers(folder, description, rows)
    differ = [n for n, answer in enumerate(answers) if answer != rows.answers[n]]
    if len(differ) > _NEAR_TIES * len(answers):
        double = dict(zip((exact := in_double()).texts, exact.answers, strict=True))
        sure = [n for n in differ if double.get(rows.texts[n]) == rows.answers[n]]
        if len(sure) > _NEAR_TIES * len(answers):
            raise ExportError(
                f"the parity check failed: {len(sure)} of {len(answers)} generated rows differ "
                "from those of transformers' pipeline",
                "nothing was written; it is a fault of the engine: please report the model",
            )
    return {"generated_rows": len(answers), "same_generated_rows": len(answers) - len(differ)}


def _answers(folder: Path, description: Description, rows: GeneratedRows) -> list[str]:
    from engine.pipeline import Bundle
    from engine.runtime.backend import OrtBackend

    bundle = BundleFolder(folder, description, "")
    backend = OrtBackend(folder, bundle.graphs_for(CPU), device=CPU, threads=0)
    table = Bundle(bundle, backend)(list(rows.texts), **rows.arguments)
    return [str(text) for text in table.column(0).to_pylist()]
