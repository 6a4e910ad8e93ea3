"""optimum-intel's export of a checkpoint, in fp32 and int8."""

from pathlib import Path
from typing import Any

from _conversions import cached
from _loop import HEADS


def export(kind: Any, job: dict[str, Any], variant: str) -> Path:
    """The folder of the fp32 or int8 export. For int8, nncf quantizes encoders with the job's rows
    as the calibration sample; of decoders only the weights are quantized."""

    def plain(folder: Path) -> None:
        kind.from_pretrained(job["checkpoint"], export=True, compile=False).save_pretrained(folder)

    def quantize_weights(folder: Path) -> None:
        from optimum.intel import OVWeightQuantizationConfig

        config = OVWeightQuantizationConfig(bits=8)
        source = export(kind, job, "fp32")
        model = kind.from_pretrained(source, compile=False, quantization_config=config)
        model.save_pretrained(folder)

    def quantize_calibrated(folder: Path) -> None:
        import nncf

        model = kind.from_pretrained(export(kind, job, "fp32"), compile=False)
        rows, shape = nncf.Dataset(samples(job)), nncf.ModelType.TRANSFORMER
        model.model = nncf.quantize(model.model, rows, model_type=shape, subset_size=100)
        model.save_pretrained(folder)

    decodes = HEADS[job["task"]].endswith("LM")
    int8 = quantize_weights if decodes else quantize_calibrated
    folder: Path = cached(job, variant, plain if variant == "fp32" else int8)
    return folder


def samples(job: dict[str, Any]) -> list[dict[str, Any]]:
    """Inputs of the first hundred rows, zero-shot's with one label."""
    import pyarrow as pa
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(job["checkpoint"])
    with pa.OSFile(job["file"]) as file:
        texts = pa.ipc.open_file(file).read_all()[job["columns"][0]].to_pylist()[:100]
    labels = job["options"].get("candidate_labels", [])
    pairs = [(text, f"This example is {labels[0]}.") for text in texts if labels]
    cut = {"truncation": "only_first", "max_length": job["max_length"], "return_tensors": "np"}
    return [dict(tokenizer(*text, **cut)) for text in pairs or zip(texts, strict=True)]
