"""Generating checkpoints -> bundles: graphs, settings, languages and what is said about them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from support import checkpoints
from support.bundles import checkpoint_of, export_once

from engine.bundle import format as bundle_format
from engine.core.device import CPU
from engine.errors import ExportError, SettingsError
from engine.pipeline import Bundle

pytest.importorskip("optimum.exporters.onnx")
onnxruntime = pytest.importorskip("onnxruntime")

from engine.export import export  # noqa: E402
from engine.export.checkpoint import task_inference  # noqa: E402
from engine.export.graphs import architectures, decoder_builder, step_cpu  # noqa: E402

FAMILIES = checkpoints.GENERATORS
CAUSAL = ("gpt2", "opt")
ENCODER_DECODERS = tuple(name for name in FAMILIES if name not in CAUSAL)
RECIPES = ("fp32", "int8")
PROMPTS = ("A dog runs over the green meadow, and nobody calls it back.", "La", "2 people walked")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    for name, (make, _) in FAMILIES.items():
        shutil.copytree(checkpoint_of(make), folder / name)
    return folder


@pytest.fixture(scope="module")
def made(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """FAMILY-RECIPE for each."""
    folder = tmp_path_factory.mktemp("made")
    for name, (_, task) in FAMILIES.items():
        for recipe in RECIPES:
            out = folder / f"{name}-{recipe}"
            export_once(models / name, out, task=task, recipe=recipe, force=True)
    return folder


def _export(model: Path, out: Path, task: str, recipe: str) -> None:
    """By force: these models have seen no text, and what they say hangs on the last bits."""
    export(str(model), out, task=task, recipe=recipe, force=True)


# --- graphs


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_bundle_is_proven(made: Path, family: str, recipe: str) -> None:
    folder = bundle_format.load(made / f"{family}-{recipe}")
    folder.check()
    found = folder.description
    assert found.proof["compared"] == "the logits of 16 teacher-forced steps"
    assert found.proof["relative_error"] < 1e-5
    _check_gate(found)
    graphs = ["step"] if family in CAUSAL else ["encoder", "step"]
    assert [graph.role for graph in folder.graphs_for(CPU)] == graphs
    # Whole numbers have no step on a GPU.
    there = {"device_step", "move", "grow", "pick"} | (set() if family in CAUSAL else {"admit"})
    roles = {graph.role for graph in found.graphs}
    assert roles - set(graphs) == (there if recipe == "fp32" else set())
    assert _settings(made / f"{family}-{recipe}").causal == (family in CAUSAL)


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("family", FAMILIES)
def test_names_of_a_step_graph(made: Path, family: str, recipe: str) -> None:
    graph = _session(made / f"{family}-{recipe}/step.onnx")
    names = {i.name for i in graph.get_inputs()}
    shared = {"tokens", "lengths", "total", "picks", "scored", *_cache("past")}
    shared |= {"whole_logits"} if recipe == "int8" else set()
    cross = {*_cache("cross"), *_cache("last"), "source_last", "source_total"}
    assert names == shared | ({"logit_rows"} if family in CAUSAL else cross)
    made_names = {"logits", "best", "best_scores", *_cache("present")}
    kept = set() if family in CAUSAL else set(_cache("cross_present"))
    assert {o.name for o in graph.get_outputs()} == made_names | kept


@pytest.mark.parametrize("family", FAMILIES)
def test_int8_step_graphs_leave_only_what_is_named_in_float32(made: Path, family: str) -> None:
    import onnx

    model = onnx.load(made / f"{family}-int8/step.onnx")
    weights = {w.name for w in model.graph.initializer}
    products = (n for n in model.graph.node if n.op_type in ("MatMul", "Gemm"))
    floats = {n.name for n in products if n.input[1] in weights}
    assert floats == ({"layer.0/narrow", "layer.1/narrow"} if family == "mt5" else set())
    assert sum(n.op_type == "TopK" for n in model.graph.node) == 2


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("family", ENCODER_DECODERS)
def test_names_of_an_encoder(made: Path, family: str, recipe: str) -> None:
    encoder = _session(made / f"{family}-{recipe}/encoder.onnx")
    assert [i.name for i in encoder.get_inputs()] == ["input_ids", "attention_mask"]
    assert [o.name for o in encoder.get_outputs()] == _cache("cross")


@pytest.mark.parametrize("family", ["bart", "mbart", "nllb", "marian", "pegasus", "gpt2", "opt"])
def test_a_tied_head_is_stored_once(models: Path, made: Path, family: str) -> None:
    import onnx

    words = json.loads((models / family / "config.json").read_text())["vocab_size"]
    stored = onnx.load(made / f"{family}-fp32/step.onnx").graph.initializer
    assert sum(sorted(w.dims) == [32, words] for w in stored) == 1


@pytest.mark.parametrize("family", ENCODER_DECODERS)
def test_positions(made: Path, family: str) -> None:
    """What a learned table has behind its offset, what a sinusoidal one has; none if relative."""
    model_config = bundle_format.load(made / f"{family}-fp32").description.model_config
    assert model_config.position_limit == (0 if family in ("t5", "mt5") else 512)


@pytest.mark.parametrize("family", ENCODER_DECODERS)
def test_beams_of_a_row_are_the_same_bits_alone_and_beside_longer_sources(
    made: Path, family: str
) -> None:
    bundle = Bundle.load(made / f"{family}-int8")
    texts = ["La", " ".join(PROMPTS * 3), PROMPTS[2], PROMPTS[0], "dog"]
    settings: dict[str, Any] = {"num_beams": 4, "num_return_sequences": 4, "max_new_tokens": 9}
    settings |= {"return_scores": True, "return_logprobs": True}
    together = bundle(texts, **settings)
    alone = [bundle([text], **settings) for text in texts]
    assert together.to_pylist() == [row for table in alone for row in table.to_pylist()]


# --- other configurations of a family


def _galactica(folder: Path, **_: Any) -> Path:
    """transformers cannot initialize such a model, but loads one."""
    checkpoints.opt(folder)
    bare = {"enable_bias": False, "layer_norm_elementwise_affine": False}
    checkpoints.edit_json(folder / "config.json", **bare, activation_function="gelu")
    return folder


# How it is made, and the task that it is exported for.
VARIANTS: dict[str, tuple[Callable[..., Path], dict[str, Any], str]] = {
    "gpt2 by layer": (
        checkpoints.gpt2, {"scale_attn_by_inverse_layer_idx": True}, "text-generation"
    ),
    "gpt2 unscaled": (checkpoints.gpt2, {"scale_attn_weights": False}, "text-generation"),
    "opt-350m": (
        checkpoints.opt, {"word_embed_proj_dim": 16, "do_layer_norm_before": False},
        "text-generation",
    ),
    "opt untied": (
        checkpoints.opt, {"tie_word_embeddings": False, "_remove_final_layer_norm": True},
        "text-generation",
    ),
    "galactica": (_galactica, {}, "text-generation"),
    "llama": (checkpoints.rotary, {"family": "Llama"}, "text-generation"),
    "gpt_neox": (
        checkpoints.rotary,
        {"family": "GPTNeoX", "head_dim": None, "hidden_size": 64, "num_key_value_heads": None},
        "text-generation",
    ),
    "gemma2": (
        checkpoints.rotary, {"family": "Gemma2", "tie_word_embeddings": False}, "text-generation"
    ),
    "m2m_100 with pad 0": (
        checkpoints.nllb, {"pad_token_id": 0, "bos_token_id": 1}, "text2text-generation"
    ),
    "m2m_100 with pad 250": (checkpoints.nllb, {"pad_token_id": 250}, "text2text-generation"),
    "t5 with a gated sigmoid": (
        checkpoints.t5, {"feed_forward_proj": "gated-sigmoid", "initializer_factor": 2},
        "text2text-generation",
    ),
    "bart with squared relu": (
        checkpoints.bart, {"activation_function": "relu2"}, "text2text-generation"
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", VARIANTS)
def test_a_variant_of_a_family_generates_as_the_checkpoint_does(tmp_path: Path, name: str) -> None:
    """By eager attention, since transformers' SDPA ignores how GPT-2 scales its scores and Gemma 2
    bounds them."""
    import transformers

    make, config, task = VARIANTS[name]
    path = make(tmp_path / "model", **config)
    report = export(str(path), tmp_path / "out", task=task)
    ignored = "gpt2" in name or name == "gemma2"
    assert any("default attention ignores" in note for note in report.notes) == ignored
    limits: dict[str, Any] = {"max_new_tokens": 20, "num_beams": 1, "do_sample": False}
    texts = [*checkpoints.SENTENCES, *PROMPTS]
    answers = Bundle.load(tmp_path / "out")(texts, **limits)["generated_text"].to_pylist()
    kind = "AutoModelForCausalLM" if task == "text-generation" else "AutoModelForSeq2SeqLM"
    pipe = transformers.pipeline(
        task,
        model=getattr(transformers, kind).from_pretrained(path, attn_implementation="eager"),
        tokenizer=transformers.AutoTokenizer.from_pretrained(path),
        device="cpu",
    )
    assert answers == [pipe(text, **limits)[0]["generated_text"] for text in texts]
    assert len(set(answers)) > 3


def test_a_model_with_few_positions(tmp_path: Path) -> None:
    """Hardly more than the steps that are compared; a prompt may be as long as they are, whatever
    the tokenizer says (64 here)."""
    checkpoints.opt(tmp_path / "model", max_position_embeddings=40)
    export(str(tmp_path / "model"), tmp_path / "out", task=None)
    model_config = bundle_format.load(tmp_path / "out").description.model_config
    assert (model_config.position_limit, model_config.max_length) == (40, 40)


def test_every_family_that_generates_has_a_blueprint() -> None:
    families = {*task_inference.ENCODER_DECODERS, *task_inference.CAUSAL}
    assert families == architectures.BLUEPRINTS.keys()


@pytest.mark.parametrize("name", architectures.ACTIVATIONS)
def test_activations_are_transformers(name: str) -> None:
    import torch
    from transformers.activations import ACT2FN

    numbers = np.linspace(-6, 6, 301, dtype=np.float32)[:, None]
    plan: Any = SimpleNamespace(activation=architectures.ACTIVATIONS[name])
    builder = decoder_builder.DecoderBuilder(plan, step_cpu.FORM)
    given = builder.input("wide", "FLOAT", ["n", 1])
    builder.output(decoder_builder.activated(builder, "layer", given), "FLOAT", ["n", 1])
    session = onnxruntime.InferenceSession(builder.written().SerializeToString())
    (answer,) = session.run(None, {"wide": numbers})
    expected = ACT2FN[name](torch.from_numpy(numbers)).numpy()
    np.testing.assert_allclose(answer, expected, atol=2e-6)


@pytest.mark.parametrize(
    ("family", "config", "said"),
    [
        ("gpt2", {"add_cross_attention": True}, "add_cross_attention"),
        ("bart", {"activation_function": "mish"}, "activation 'mish'"),
        ("t5", {"feed_forward_proj": "gated-laplace"}, "activation 'laplace'"),
    ],
)
def test_what_has_no_step_graph_is_refused(
    tmp_path: Path, family: str, config: dict[str, Any], said: str
) -> None:
    make, task = FAMILIES[family]
    path = getattr(checkpoints, make.__name__)(tmp_path / "model", **config)
    with pytest.raises(ExportError, match=said):
        export(str(path), tmp_path / "out", task=task)
    assert [file.name for file in tmp_path.iterdir()] == ["model"]


# --- settings


@pytest.mark.parametrize("family", FAMILIES)
def test_settings_are_the_pipeline_s(models: Path, made: Path, family: str) -> None:
    expected = _pipeline(models / family, FAMILIES[family][1]).generation_config
    found = _settings(made / f"{family}-fp32")
    search = found.search
    assert found.end_ids == (expected.eos_token_id,)
    assert found.max_new_tokens == (expected.max_new_tokens or expected.max_length - 1)
    assert search.num_beams == expected.num_beams
    assert search.length_penalty == expected.length_penalty
    assert search.early_stopping == expected.early_stopping
    assert search.min_new_tokens == max(0, expected.min_length - 1)
    assert search.no_repeat_ngram_size == expected.no_repeat_ngram_size
    assert search.encoder_no_repeat_ngram_size == expected.encoder_no_repeat_ngram_size
    assert search.repetition_penalty == expected.repetition_penalty
    assert [list(words) for words in search.bad_words_ids] == (expected.bad_words_ids or [])
    assert search.forced_eos_id == _or_none(expected.forced_eos_token_id)
    if not bundle_format.load(made / f"{family}-fp32").description.model_config.languages:
        assert search.forced_bos_id == _or_none(expected.forced_bos_token_id)
    if family not in CAUSAL:
        assert found.start_id == expected.decoder_start_token_id


def test_settings_of_a_summarizer(made: Path) -> None:
    assert _settings(made / "bart-fp32") == bundle_format.DecoderConfig(
        start_id=2,
        end_ids=(2,),
        pad_id=1,
        max_new_tokens=29,
        vocabulary=300,
        layers=2,
        heads=4,
        head_dim=8,
        search=bundle_format.GenerationConfig(
            num_beams=4,
            length_penalty=2.0,
            early_stopping=True,
            min_new_tokens=5,
            no_repeat_ngram_size=3,
            forced_bos_id=0,
            forced_eos_id=2,
        ),
    )


def test_a_causal_model_without_a_pad_pads_with_its_end(made: Path) -> None:
    settings = _settings(made / "gpt2-fp32")
    assert (settings.start_id, settings.bos_id, settings.pad_id) == (-1, 0, 0)
    # task_specific_params say max_length=50; the pipeline's own new tokens go before it.
    assert settings.max_new_tokens == 256
    notes = bundle_format.load(made / "gpt2-fp32").description.notes
    assert any("samples" in note and "numbers of its own" in note for note in notes)
    found = settings.search
    assert (found.do_sample, found.num_beams) == (True, 1)
    # The temperature is the pipeline's own.
    assert (found.temperature, found.top_k, found.top_p, found.min_p) == (0.7, 50, 1.0, 0.0)


def test_what_is_drawn_from_arrives(tmp_path: Path) -> None:
    model = checkpoints.gpt2(tmp_path / "model", task_specific_params=None)
    # The pipeline's own temperature goes before this one.
    own = {"temperature": 1.5, "top_k": 0, "top_p": 0.8, "min_p": 0.1, "typical_p": 0.9}
    checkpoints.edit_json(model / "generation_config.json", do_sample=True, **own)
    report = export(str(model), tmp_path / "out", task="text-generation")
    found = _settings(tmp_path / "out").search
    assert found == bundle_format.GenerationConfig(
        do_sample=True, temperature=0.7, top_k=0, top_p=0.8, min_p=0.1
    )
    assert any("typical_p=0.9, which this engine does not support" in note for note in report.notes)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"num_beams": 4, "temperature": 0.5}, "takes the likeliest beam"),
        # generate() itself turns sampling off.
        ({"temperature": 0.0}, ""),
        ({"top_p": 0.0}, "takes the likeliest token"),
    ],
    ids=str,
)
def test_where_draws_cannot_be_the_likeliest_is_taken(
    tmp_path: Path, given: dict[str, Any], said: str
) -> None:
    specific = {"text-generation": {"do_sample": True, "max_new_tokens": 4, **given}}
    model = checkpoints.gpt2(tmp_path / "model", task_specific_params=specific)
    report = export(str(model), tmp_path / "out", task="text-generation")
    found = _settings(tmp_path / "out").search
    assert not found.do_sample
    assert found.temperature == (given.get("temperature", 0.7) or 1.0)
    assert found.top_p == 1.0
    assert any(said in note for note in report.notes) or not said
    # What is left does for a draw, where one is asked for.
    assert Bundle.load(tmp_path / "out")(["w"], do_sample=True, num_beams=1).num_rows == 1


def test_every_other_setting_arrives(tmp_path: Path) -> None:
    model = checkpoints.marian(tmp_path / "model")
    checkpoints.edit_json(
        model / "generation_config.json",
        eos_token_id=[1, 2],
        min_new_tokens=4,
        encoder_no_repeat_ngram_size=5,
        repetition_penalty=1.3,
        early_stopping="never",
        forced_bos_token_id=7,
        forced_eos_token_id=[1, 2],
        bad_words_ids=[[0], [8, 9]],
        suppress_tokens=[11, 12],
        begin_suppress_tokens=[13],
        num_beam_groups=2,
        diversity_penalty=0.5,
        do_sample=False,
        sequence_bias=[[[14], -1.0]],
    )
    report = export(str(model), tmp_path / "out", task="text2text-generation")
    found = _settings(tmp_path / "out")
    assert found.end_ids == (1, 2)
    assert found.search == bundle_format.GenerationConfig(
        num_beams=4,
        early_stopping="never",
        min_new_tokens=4,
        encoder_no_repeat_ngram_size=5,
        repetition_penalty=1.3,
        forced_bos_id=7,
        forced_eos_id=1,
        bad_words_ids=((0,), (8, 9)),
        suppress_ids=(11, 12),
        begin_suppress_ids=(13,),
    )
    said = " / ".join(report.notes)
    assert "num_beam_groups=2, which this engine does not support" in said
    assert "sequence_bias" in said
    assert "one of the last tokens [1, 2]" in said


def test_lengths_that_count_the_prompt_are_noted(tmp_path: Path) -> None:
    model = checkpoints.gpt2(tmp_path / "model", task_specific_params=None)
    checkpoints.edit_json(
        model / "generation_config.json", max_length=90, min_length=9, forced_bos_token_id=3
    )
    report = export(str(model), tmp_path / "out", task=None)
    found = _settings(tmp_path / "out")
    assert (found.max_new_tokens, found.search.min_new_tokens) == ("90-x", "9-x")
    # Forced behind prompts of one token, such as the last.
    assert found.search.forced_bos_id == 3
    assert any("max_length=90 counts the prompt" in note for note in report.notes)
    prompts = [PROMPTS[0], "dog", "d"]
    answers = Bundle.load(tmp_path / "out")(prompts, do_sample=False).to_pylist()
    pipe = _pipeline(model, "text-generation")
    wanted = [pipe(text, do_sample=False)[0]["generated_text"] for text in prompts]
    assert [row["generated_text"] for row in answers] == wanted
    # What is as long as the limit gets one token; a limit of the person's own counts new ones.
    long = "a dog and " * 24
    (row,) = Bundle.load(tmp_path / "out")([long]).to_pylist()
    assert row["generated_text"].startswith(long)
    assert (row["output_tokens"], row["finish_reason"]) == (1, "length")
    (row,) = Bundle.load(tmp_path / "out")([long], max_new_tokens=5, min_new_tokens=5).to_pylist()
    assert row["output_tokens"] == 5


def test_no_end_and_no_start_token(tmp_path: Path) -> None:
    model = checkpoints.marian(tmp_path / "model")
    checkpoints.edit_json(
        model / "generation_config.json", eos_token_id=None, forced_eos_token_id=None
    )
    report = export(str(model), tmp_path / "out", task="translation")
    assert _settings(tmp_path / "out").end_ids == ()
    assert any("names no end token" in note for note in report.notes)
    checkpoints.edit_json(model / "generation_config.json", decoder_start_token_id=None)
    with pytest.raises(ExportError, match="has a decoder_start_token_id"):
        export(str(model), tmp_path / "none", task="translation")


# --- prefixes


def test_the_prefix_is_the_pipeline_s(tmp_path: Path) -> None:
    tasks = {**checkpoints.T5_TASKS, "summarization": {"prefix": "summarize: ", "min_length": 9}}
    model = checkpoints.t5(tmp_path / "model", task_specific_params=tasks)
    for task, prefix in (("summarization", "summarize: "), ("text2text-generation", "")):
        export(str(model), tmp_path / task, task=task)
        model_config = bundle_format.load(tmp_path / task).description.model_config
        assert model_config.prefix == prefix == (_pipeline(model, task).prefix or "")
    assert _settings(tmp_path / "summarization").search.min_new_tokens == 8
    report = export(str(model), tmp_path / "pair", task="translation_en_to_ro")
    assert any("translation_en_to_de, translation_en_to_fr" in note for note in report.notes)


def test_a_prefix_of_the_whole_checkpoint(tmp_path: Path) -> None:
    model = checkpoints.bart(tmp_path / "model", prefix=" ")
    export(str(model), tmp_path / "out", task="summarization")
    assert bundle_format.load(tmp_path / "out").description.model_config.prefix == " "


# --- languages


@pytest.mark.parametrize(
    ("family", "source", "target"),
    [
        ("mbart", "en_XX", "de_DE"),
        ("mbart50", "en_XX", "de_DE"),
        ("nllb", "fra_Latn", "deu_Latn"),
    ],
)
def test_languages_of_a_pair(
    models: Path, made: Path, family: str, source: str, target: str
) -> None:
    """As the pipeline's inputs are built from src_lang and tgt_lang."""
    from tokenizers import Tokenizer
    from transformers import AutoTokenizer

    model_config = bundle_format.load(made / f"{family}-fp32").description.model_config
    tokenizer = AutoTokenizer.from_pretrained(models / family)
    pipeline_s = tokenizer._build_translation_inputs(
        PROMPTS[0], return_tensors="np", src_lang=source, tgt_lang=target
    )
    assert model_config.languages is not None
    assert model_config.decoder is not None
    assert (model_config.languages.source, model_config.languages.target) == (source, target)
    assert model_config.languages.ids[source] in pipeline_s.input_ids
    assert model_config.decoder.search.forced_bos_id == pipeline_s.forced_bos_token_id
    saved = Tokenizer.from_file(str(made / f"{family}-fp32/tokenizer.json"))
    assert saved.encode(PROMPTS[0]).ids == pipeline_s.input_ids[0].tolist()


def test_languages_where_none_are_named(models: Path, tmp_path: Path) -> None:
    report = export(str(models / "mbart"), tmp_path / "one", task="translation")
    languages = bundle_format.load(tmp_path / "one").description.model_config.languages
    # Its decoder starts from ro_RO.
    assert languages is not None
    assert (languages.source, languages.target) == ("en_XX", "ro_RO")
    assert any("from en_XX into ro_RO" in note for note in report.notes)
    report = export(str(models / "mbart50"), tmp_path / "two", task="translation")
    model_config = bundle_format.load(tmp_path / "two").description.model_config
    assert model_config.languages is not None
    assert model_config.decoder is not None
    assert (model_config.languages.target, model_config.decoder.search.forced_bos_id) == ("", -1)
    assert len(model_config.languages.ids) == 52
    assert any("names no target language" in note for note in report.notes)


def test_other_tasks_take_no_languages(models: Path, tmp_path: Path) -> None:
    export(str(models / "mbart50"), tmp_path / "out", task="text2text-generation")
    model_config = bundle_format.load(tmp_path / "out").description.model_config
    assert model_config.languages is None


@pytest.mark.parametrize(
    ("family", "task", "said"),
    [
        ("mbart", "translation_en_to_tlh", "no code 'tlh'"),
        ("nllb", "translation_eng_to_zho", "several codes of 'zho'"),
    ],
)
def test_unknown_languages_are_refused(
    models: Path, tmp_path: Path, family: str, task: str, said: str
) -> None:
    with pytest.raises(SettingsError, match=said) as caught:
        export(str(models / family), tmp_path / "out", task=task)
    assert {"mbart": "en_XX", "nllb": "zho_Hans, zho_Hant"}[family] in caught.value.hint


# --- Marian's own tokenizer


@pytest.mark.parametrize("kind", ["unigram", "bpe"])
def test_marian_s_tokenizer_in_the_tokenizers_library(tmp_path: Path, kind: str) -> None:
    pytest.importorskip("sentencepiece")
    from tokenizers import Tokenizer
    from transformers import AutoTokenizer

    model = checkpoints.marian_pieces(tmp_path / "model", kind)
    export(str(model), tmp_path / "out", task="translation_en_to_de")
    made = Tokenizer.from_file(str(tmp_path / "out/tokenizer.json"))
    own = AutoTokenizer.from_pretrained(model)
    edges = (
        "",
        "   ",
        " two  spaces\t tab\n x ",
        ">>deu<< The house",
        "läuft ß日本 läuft",
        "e\u0301ﬁ①",
    )
    for text in (*checkpoints.SENTENCES, *edges, "a" * 500, "</s> x <pad>"):
        assert made.encode(text).ids == own(text).input_ids, text
    rng = np.random.default_rng(0)
    for length in rng.integers(1, 20, 200):
        ids = rng.integers(0, len(own.encoder), length).tolist()
        text = own.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        assert made.decode(ids) == text, ids


def test_marian_with_a_piece_that_has_no_id(tmp_path: Path) -> None:
    sentencepiece = pytest.importorskip("sentencepiece")
    model = checkpoints.marian_pieces(tmp_path / "model", "bpe")
    spm = sentencepiece.SentencePieceProcessor(str(model / "source.spm"))
    lost = max((spm.id_to_piece(n) for n in range(3, spm.get_piece_size())), key=len)
    vocabulary = json.loads((model / "vocab.json").read_text(encoding="utf-8"))
    other = {("other" if piece == lost else piece): n for piece, n in vocabulary.items()}
    checkpoints.write_json(model / "vocab.json", other)
    with pytest.raises(ExportError, match=r"vocab.json lacks 1 of the \d+ pieces") as caught:
        export(str(model), tmp_path / "out", task="translation")
    assert "of the kind unigram" in caught.value.hint


def test_marian_with_two_vocabularies_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("sentencepiece")
    model = checkpoints.marian_pieces(tmp_path / "model")
    shutil.copy(model / "vocab.json", model / "target_vocab.json")
    checkpoints.edit_json(model / "tokenizer_config.json", separate_vocabs=True)
    with pytest.raises(ExportError, match="separate_vocabs"):
        export(str(model), tmp_path / "out", task="translation")


# --- real tokenizers


def test_gpt2_s_tokenizer(shared: Path, tmp_path: Path) -> None:
    ends = {"bos_token_id": 50256, "eos_token_id": 50256}
    model = checkpoints.gpt2(tmp_path / "model", vocab_size=50257, **ends)
    _take_tokenizer(model, shared / "models/tokenizers/gpt2")
    export(str(model), tmp_path / "out", task=None, recipe="int8")
    settings = _settings(tmp_path / "out")
    assert (settings.bos_id, settings.end_ids, settings.pad_id) == (50256, (50256,), 50256)


def test_opt_s_tokenizer_begins_every_prompt(shared: Path, tmp_path: Path) -> None:
    """OPT has GPT-2's pieces and a token before each text, which is in the written tokenizer."""
    from tokenizers import Tokenizer

    special = {
        "bos_token": "<|endoftext|>",
        "add_bos_token": True,
        "tokenizer_class": "GPT2Tokenizer",
    }
    ids = {"bos_token_id": 50256, "eos_token_id": 50256}
    model = checkpoints.opt(tmp_path / "model", vocab_size=50257, **ids)
    _take_tokenizer(model, shared / "models/tokenizers/gpt2")
    checkpoints.write_json(model / "tokenizer_config.json", special)
    export(str(model), tmp_path / "out", task=None)
    saved = Tokenizer.from_file(str(tmp_path / "out/tokenizer.json"))
    assert saved.encode("Hello").ids == [50256, 15496]


def test_bart_s_tokenizer(shared: Path, tmp_path: Path) -> None:
    model = checkpoints.bart(tmp_path / "model", vocab_size=50265)
    _take_tokenizer(model, shared / "models/tokenizers/roberta-base")
    export(str(model), tmp_path / "out", task=None)
    assert bundle_format.load(tmp_path / "out").description.task == "text2text-generation"


# --- refusals


@pytest.mark.parametrize(
    ("family", "task", "said", "hint"),
    [
        ("gpt2", "translation", "type 'gpt2'", "--task text-generation"),
        ("opt", "summarization", "type 'opt'", "--task text-generation"),
        ("bart", "text-generation", "type 'bart'", "--task translation or summarization"),
    ],
)
def test_a_task_of_the_other_kind_is_refused(
    models: Path, tmp_path: Path, family: str, task: str, said: str, hint: str
) -> None:
    with pytest.raises(ExportError, match=said) as caught:
        export(str(models / family), tmp_path / "out", task=task)
    assert hint in caught.value.hint
    assert list(tmp_path.iterdir()) == []


def test_the_proof_sees_a_position_that_is_off_by_one(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Swapped rows of the position table, as an offset would swap them."""
    from onnx import numpy_helper

    from engine.export.graphs import storage

    right = storage.save

    def shifted(graphs: dict[str, Any], folder: Path) -> None:
        for weight in (w for model in graphs.values() for w in model.graph.initializer):
            if list(weight.dims) in ([514, 32], [512, 32]):
                array = np.roll(numpy_helper.to_array(weight), 1, axis=0)
                weight.CopyFrom(numpy_helper.from_array(array, weight.name))
        right(graphs, folder)

    monkeypatch.setattr(storage, "save", shifted)
    for family in ("bart", "opt"):
        with pytest.raises(ExportError, match="the parity check failed: the logits of 16"):
            export(str(models / family), tmp_path / family, task=None)


# --- helpers


def _check_gate(found: bundle_format.Description) -> None:
    """Rows alone answer as they do among others, and most tokens stay: half of them by far, even
    of models that have seen no text, whose logits lie close together."""
    assert bool(found.gate) == (found.recipe != "fp32")
    if found.gate:
        figures = {name: figure["value"] for name, figure in found.gate["figures"].items()}
        assert figures["largest difference to the row alone"] == 0
        assert figures["same top token"] > 0.5


def _settings(folder: Path) -> bundle_format.DecoderConfig:
    found = bundle_format.load(folder).description.model_config.decoder
    assert found is not None
    return found


def _or_none(given: int | None) -> int:
    return -1 if given is None else given


def _pipeline(model: Path, task: str) -> Any:
    """The reference; a pair of codes with underscores is none of its own tasks."""
    import transformers

    if task.startswith("translation") and task.count("_") != 3:
        task = "translation"
    tokenizer = transformers.AutoTokenizer.from_pretrained(model)
    return transformers.pipeline(task, model=str(model), tokenizer=tokenizer, device="cpu")


def _take_tokenizer(model: Path, source: Path) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        (model / name).unlink(missing_ok=True)
    for file in source.iterdir():
        shutil.copy(file, model)


def _session(file: Path) -> Any:
    return onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])


def _cache(kind: str) -> list[str]:
    return [f"{kind}.{n}.{what}" for n in range(2) for what in ("key", "value")]
