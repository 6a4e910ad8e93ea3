"""The names of a head's logits: id2label, label2id and num_labels of config.json."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from engine.core import json_text
from engine.errors import ExportError
from engine.export.checkpoint.hub import Checkpoint
from engine.export.checkpoint.task_inference import ExportTask

# transformers' classes of models whose logits have labels.
LABELLED = ("AutoModelForSequenceClassification", "AutoModelForTokenClassification")
_NAMED = 8


def read(
    checkpoint: Checkpoint, config: Any, task: ExportTask, note: Callable[[str], None]
) -> dict[str, Any]:
    """Fields of the bundle's ModelConfig: labels, problem_type and entailment.

    Args:
        config: The checkpoint's configuration as transformers reads it.
        note: Called with what the user should know.

    Raises:
        ExportError: id2label does not name each logit once, or num_labels contradicts it; or the
            task is zero-shot-classification, and no label says entailment.
    """
    check(checkpoint)
    names = tuple(str(config.id2label[i]) for i in sorted(config.id2label))
    if any(not isinstance(value, str) for value in config.id2label.values()):
        note("id2label in config.json has numbers as names; they are written as texts")
    if repeated := [name for name, count in Counter(names).items() if count > 1]:
        note(f"id2label in config.json gives several logits one name: {listed(repeated)}")
    if checkpoint.config.get("label2id") and not checkpoint.config.get("id2label"):
        note("config.json has label2id without id2label; as in the pipeline it is not read")
    label2id = config.label2id or {}
    fields: dict[str, Any] = {"labels": names, "problem_type": config.problem_type or ""}
    contradicts = _contradicts(names, label2id)
    if task.name == "zero-shot-classification":
        fields["entailment"] = _entailment(checkpoint, names, label2id)
        if contradicts:
            which = fields["entailment"]
            note(
                "id2label and label2id in config.json contradict each other; as in the pipeline, "
                f"label2id says which logit is entailment: {which}, which id2label calls "
                f"{names[which]}"
            )
    elif contradicts:
        note(
            "id2label and label2id in config.json contradict each other; as in the pipeline, "
            "id2label names the labels"
        )
    return fields


def entails(config: Mapping[str, Any]) -> bool:
    """Whether config.json names a label that starts with "entail"."""
    id2label, label2id = config.get("id2label"), config.get("label2id")
    named = list(id2label.values()) if isinstance(id2label, dict) else []
    named += list(label2id) if isinstance(label2id, dict) else []
    return any(_is_entailment(name) for name in named)


def check(checkpoint: Checkpoint) -> None:
    """Refuse an id2label that does not name each logit once.

    transformers counts its entries and looks the logits' numbers up in it, so one with other keys
    gives wrong names, or none.

    Raises:
        ExportError: As in `read`.
    """
    id2label, count = checkpoint.config.get("id2label"), checkpoint.config.get("num_labels")
    problem = _problem(id2label, count) or _written_twice(checkpoint)
    if problem:
        last = (count if isinstance(count, int) and count > 0 else len(id2label or ()) or 2) - 1
        raise ExportError(
            f"{checkpoint.name}: config.json: {problem}",
            f'correct id2label in config.json: one text for each logit, the keys "0" to "{last}" '
            "if the head has as many, and num_labels the same or left out",
        )


def _problem(id2label: object, count: object) -> str:
    """What is wrong with id2label and num_labels, in words; "" where nothing is."""
    if count is not None and (isinstance(count, bool) or not isinstance(count, int) or count < 1):
        return f"num_labels is {count!r}, not a number of labels"
    if id2label is None:
        return ""
    if not isinstance(id2label, dict):
        return f"id2label is a {type(id2label).__name__}, not an object of numbers and names"
    return _of_entries(id2label) or _of_numbers(sorted(map(int, id2label)), count)


def _of_entries(id2label: Mapping[str, object]) -> str:
    """What is wrong with keys or names, each for itself."""
    if strange := [key for key in id2label if not _is_number(key)]:
        return f"id2label has keys that are not integers: {listed(strange)}"
    if no_texts := [key for key, name in id2label.items() if not _is_name(name)]:
        return f"id2label has names that are not texts, at the keys {listed(no_texts)}"
    return "" if id2label else "id2label is empty"


def _of_numbers(numbers: Sequence[int], count: int | None) -> str:
    """What is wrong with all keys together, in order, and their number."""
    if repeated := [str(n) for n, times in Counter(numbers).items() if times > 1]:
        return f"id2label has the keys {listed(repeated)} more than once"
    if list(numbers) != list(range(len(numbers))):
        return (
            f"id2label has {len(numbers)} names with the keys {listed(list(map(str, numbers)))}; "
            f"logits are counted 0 to {len(numbers) - 1}"
        )
    if count not in (None, len(numbers)):
        return f"num_labels is {count}, but id2label has {len(numbers)} names"
    return ""


def _is_number(key: object) -> bool:
    try:
        int(str(key))
    except ValueError:
        return False
    return True


def _is_name(name: object) -> bool:
    """A number is as good as a text: it has one."""
    return isinstance(name, (str, int, float))


def _written_twice(checkpoint: Checkpoint) -> str:
    """What is wrong where id2label in the file has a key twice: JSON readers keep the last one."""
    repeated: list[str] = []

    def pairs(items: list[tuple[str, Any]]) -> Any:
        keys = Counter(key for key, _ in items)
        return {**dict(items), "": [key for key, times in keys.items() if times > 1]}

    file = checkpoint.folder / "config.json"
    if file.is_file():
        id2label = json_text.parse(file.read_bytes(), object_pairs_hook=pairs).get("id2label")
        repeated = id2label[""] if isinstance(id2label, dict) else []
    return f"id2label has the keys {listed(repeated)} more than once" if repeated else ""


def _contradicts(names: Sequence[str], label2id: Mapping[str, Any]) -> bool:
    """Whether label2id gives a number to a name that id2label does not call so."""
    return any(
        not isinstance(number, int) or not 0 <= number < len(names) or names[number] != str(label)
        for label, number in label2id.items()
    )


def _entailment(checkpoint: Checkpoint, names: Sequence[str], label2id: Mapping[str, Any]) -> int:
    """Index of the logit of entailment: the first such label of label2id, as in the pipeline.

    Where label2id names none, the pipeline guesses the last logit; that guess is taken only if
    id2label says the same.
    """
    named = [number for label, number in label2id.items() if _is_entailment(label)]
    if named and isinstance(named[0], int) and 0 <= named[0] < len(names):
        return named[0]
    if named:
        raise ExportError(
            f"{checkpoint.name}: config.json: label2id calls logit {named[0]!r} entailment; the "
            f"head has the logits 0 to {len(names) - 1}",
            "correct label2id in config.json: the number of each label, as in id2label",
        )
    numbers = [number for number, label in enumerate(names) if _is_entailment(label)]
    if not numbers:
        raise ExportError(
            f"{checkpoint.name}: no label of the checkpoint starts with 'entail', so it cannot "
            f"tell whether a text entails a hypothesis; its labels: {listed(names)}",
            "export a checkpoint trained on natural language inference, or name its labels in "
            "config.json's id2label and label2id",
        )
    if label2id and numbers[0] != len(names) - 1:
        raise ExportError(
            f"{checkpoint.name}: config.json: no label of label2id starts with 'entail', but "
            f"id2label calls logit {numbers[0]} {names[numbers[0]]}; the pipeline would take the "
            "last one",
            "correct label2id in config.json: the number of each label, as in id2label",
        )
    return numbers[0]


def _is_entailment(label: object) -> bool:
    return str(label).lower().startswith("entail")


def listed(names: Sequence[str]) -> str:
    """The first names as one text, and how many more there are."""
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more
