"""optimum-intel's export of a checkpoint, and its int8 forms."""

from pathlib import Path
from typing import Any

from _conversions import kept
from _loop import HEADS


def exported(kind: Any, job: dict[str, Any], wanted: str) -> Path:
    """The folder of the fp32 export; or int8: encoders by nncf with the job's own rows as its
    calibration, decoders in the weights alone."""

    def plain(folder: Path) -> None:
        kind.from_pretrained(job["checkpoint"], export=True, compile=False).save_pretrained(folder)

    def lighter(folder: Path) -> None:
        from optimum.intel import OVWeightQuantizationConfig

        way = OVWeightQuantizationConfig(bits=8)
        source = exported(kind, job, "fp32")
        model = kind.from_pretrained(source, compile=False, quantization_config=way)
        model.save_pretrained(folder)

    def calibrated(folder: Path) -> None:
        import nncf

        model = kind.from_pretrained(exported(kind, job, "fp32"), compile=False)
        rows, shape = nncf.Dataset(samples(job)), nncf.ModelType.TRANSFORMER
        model.model = nncf.quantize(model.model, rows, model_type=shape, subset_size=100)
        model.save_pretrained(folder)

    light = lighter if HEADS[job["task"]].endswith("LM") else calibrated
    folder: Path = kept(job, wanted, plain if wanted == "fp32" else light)
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
    return [dict(tokenizer(*given, **cut)) for given in pairs or zip(texts, strict=True)]
