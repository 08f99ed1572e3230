"""The weight conversion: every tensor accounted for, equal output, errors that name what is wrong."""

import dataclasses
import json
import math
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import CLIPVisionConfig, LlamaConfig, LlamaForCausalLM, SiglipVisionConfig

from components.context import RunContext
from components.errors import InputError, StageError
from components.model.config import LanguageConfig, LanguagePart, VisionConfig, VisionPart, read_stored
from components.model.families.hf_config import HfConfig, read_hf_config
from components.model.families.language.decoder import decoder_rules
from components.model.families.language.registry import language_family, read_language
from components.model.families.rules import TensorRule
from components.model.families.vision.clip import CLIP
from components.model.families.vision.encoder import vision_prefix
from components.model.families.vision.registry import read_vision, vision_family
from components.stage.runner import StageOutput
from components.weight_conversion import parts, verify
from components.weight_conversion.config import WeightConversionConfig
from components.weight_conversion.safetensors_folder import SafetensorsFolder
from components.weight_conversion.stage import run_weight_conversion
from tests.support.families import redraw
from tests.support.model_samples import TOLERANCE, VOCABULARY
from tests.support.model_world import clip, finished_weights, mistral, tokenizer

DEFAULT_TOLERANCE = WeightConversionConfig(part="language").tolerance


def run(folder: Path, part: str, **changes: Any) -> StageOutput:
    if not (folder / "weights" / "manifest.json").exists():
        finished_weights(folder / "weights")
    context = RunContext(run_id="t", run_name="t", workspace=folder / "workspace")
    config = WeightConversionConfig(part=part, **{"make_vocab_size_divisible_by": 8, "tolerance": TOLERANCE, **changes})
    return run_weight_conversion(context, config, folder / "weights")


def edit_config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.fixture
def language(tmp_path: Path) -> Path:
    folder = tmp_path / "weights" / "language"
    mistral(folder, num_hidden_layers=2)
    tokenizer(folder)
    return folder


@pytest.fixture
def vision(tmp_path: Path) -> Path:
    folder = tmp_path / "weights" / "vision"
    clip(folder)
    return folder


def test_language_from_several_files(tmp_path: Path, language: Path) -> None:
    mistral(language, num_hidden_layers=2).save_pretrained(language, max_shard_size="60KB")
    (language / "model.safetensors").unlink()
    assert len(list(language.glob("*.safetensors"))) > 2
    output = run(tmp_path, "language")
    facts = output.manifest.facts
    assert 0 < facts["max_logit_difference"] <= TOLERANCE
    assert facts["architecture"] == "MistralForCausalLM"
    stored = read_stored(output.folder, LanguagePart)
    assert (stored.config.vocabulary_size, stored.config.padded_vocabulary_size) == (VOCABULARY, 336)
    assert (stored.config.rotary_base, stored.config.num_query_groups, stored.dtype) == (1e6, 2, "float32")
    assert (output.folder / "tokenizer" / "tokenizer.json").is_file()
    report = json.loads((output.folder / "conversion_report.json").read_text())
    used = [name for row in report["mapped"] for name in row["sources"]]
    assert sorted(used) == SafetensorsFolder(language).names
    assert run(tmp_path, "language").reused


def test_tied_llama_with_default_names(tmp_path: Path) -> None:
    folder = tmp_path / "weights" / "language"
    settings = {"vocab_size": 330, "hidden_size": 48, "intermediate_size": 64, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 4, "max_position_embeddings": 64}
    model = LlamaForCausalLM(LlamaConfig(**settings, **heads, tie_word_embeddings=True)).eval()
    redraw(model, seed=4)
    model.save_pretrained(folder)
    tokenizer(folder)
    output = run(tmp_path, "language")
    assert output.manifest.facts["max_logit_difference"] <= TOLERANCE
    assert read_stored(output.folder, LanguagePart).config.tied_embeddings


@pytest.mark.parametrize("feature_layer", [-1, -2])
def test_vision_at_a_feature_layer(tmp_path: Path, vision: Path, feature_layer: int) -> None:
    output = run(tmp_path, "vision", feature_layer=feature_layer)
    assert output.manifest.facts["max_logit_difference"] <= TOLERANCE
    assert read_stored(output.folder, VisionPart).config.built_layers == 4 + feature_layer
    report = json.loads((output.folder / "conversion_report.json").read_text())
    reasons = {row["reason"] for row in report["dropped"]}
    assert "features are taken before the post-layernorm" in reasons
    assert ("above the feature layer" in reasons) == (feature_layer == -2)


def test_bfloat16_source_stays_bfloat16(tmp_path: Path, language: Path) -> None:
    mistral(language, num_hidden_layers=2).to(torch.bfloat16).save_pretrained(language)
    output = run(tmp_path, "language")
    assert output.manifest.facts["dtype"] == "bfloat16"
    assert output.manifest.facts["max_logit_difference"] <= TOLERANCE


def test_without_verification_the_facts_say_so(tmp_path: Path, vision: Path) -> None:
    assert run(tmp_path, "vision", verify=False).manifest.facts["max_logit_difference"] == "not verified"


def test_rules_split_back_into_the_source(language: Path, vision: Path) -> None:
    config = read_language(read_hf_config(language), 8)
    tower = read_vision(read_hf_config(vision), -1)
    for folder, rules in ((language, decoder_rules(config)), (vision, CLIP.rules(tower, ""))):
        source = SafetensorsFolder(folder)
        for rule in rules:
            tensors = [source.tensor(name) for name in rule.sources]
            for tensor, again in zip(tensors, rule.split(rule.join(tensors)), strict=True):
                assert torch.equal(tensor, again), rule.target


def test_prefix_of_older_files() -> None:
    assert vision_prefix(["vision_model.pre_layrnorm.weight"]) == "vision_model."
    assert vision_prefix(["pre_layrnorm.weight"]) == ""


@pytest.mark.parametrize(
    "wrong",
    [
        {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4}},
        {"rms_norm_eps": 1e-2},
    ],
)
def test_wrong_language_conversion_fails_the_stage(
    tmp_path: Path, language: Path, wrong: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The config that is converted lies; transformers runs the true one."""
    true_config = (language / "config.json").read_text()
    compute = verify._transformers_logits

    def with_true_config(source: Path, *arguments: Any) -> Any:
        (source / "config.json").write_text(true_config)
        return compute(source, *arguments)

    edit_config(language, **wrong)
    monkeypatch.setattr(verify, "_transformers_logits", with_true_config)
    with pytest.raises(StageError, match="differs from that of"):
        run(tmp_path, "language", tolerance=DEFAULT_TOLERANCE)


def test_gelu_for_quick_gelu_fails_the_stage(tmp_path: Path, vision: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compute = verify._transformers_features

    def with_true_config(source: Path, *arguments: Any) -> Any:
        edit_config(source, hidden_act="quick_gelu")
        return compute(source, *arguments)

    edit_config(vision, hidden_act="gelu")
    monkeypatch.setattr(verify, "_transformers_features", with_true_config)
    with pytest.raises(StageError, match="differs from that of"):
        run(tmp_path, "vision", tolerance=DEFAULT_TOLERANCE)


def swapped(tensors: Sequence[Tensor]) -> Tensor:
    return torch.cat(list(reversed(tensors)))


@pytest.mark.parametrize(
    ("target", "wrong"),
    [
        ("self_attention.linear_qkv.weight", lambda tensors: torch.cat(list(tensors))),  # not interleaved per group
        ("mlp.linear_fc1.weight", swapped),  # up before gate
        ("self_attention.linear_proj.weight", lambda tensors: tensors[0].flip(0)),
        ("embedding.word_embeddings.weight", lambda tensors: nn.functional.pad(tensors[0], (0, 0, 6, 0))),
    ],
)
def test_wrong_rule_fails_the_stage(
    tmp_path: Path,
    language: Path,
    monkeypatch: pytest.MonkeyPatch,
    target: str,
    wrong: Callable[[Sequence[Tensor]], Tensor],
) -> None:
    def wrong_rules(config: LanguageConfig) -> list[TensorRule]:
        return [
            dataclasses.replace(rule, join=wrong) if rule.target.endswith(target) else rule
            for rule in decoder_rules(config)
        ]

    family = dataclasses.replace(language_family("mistral"), rules=wrong_rules)
    monkeypatch.setattr(parts, "language_family", lambda _: family)
    with pytest.raises(StageError, match="differs from that of"):
        run(tmp_path, "language", tolerance=DEFAULT_TOLERANCE)


def test_difference_that_is_not_a_number_fails_the_stage(
    tmp_path: Path, vision: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verify, "_difference", lambda found, expected: verify.Difference(math.nan, 1.0))
    with pytest.raises(StageError, match="differs"):
        run(tmp_path, "vision")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"architectures": ["MixtralForCausalLM"], "model_type": "mixtral"},
            r"is a MixtralForCausalLM: a mixture of experts\. As language model, these are supported: mistral",
        ),
        ({"architectures": ["MistralForTokenClassification"]}, "is a MistralForTokenClassification"),
        ({"architectures": None, "model_type": "gemma"}, "is a gemma"),
        ({"architectures": None, "model_type": "qwen2_5_vl"}, "a vision-language model already"),
        ({"hidden_act": "gelu"}, "hidden_act = 'gelu'"),
        ({"attention_bias": True}, "attention_bias = True"),
        ({"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e6}}, "rotary scaling 'yarn'"),
        ({"rope_scaling": {"type": "linear", "factor": 2}}, "rotary scaling 'linear'"),
        ({"rope_scaling": {"type": "mrope", "mrope_section": [2, 3, 3]}}, "has M-RoPE"),
        ({"rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, "without 'low_freq_factor'"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor"),
        ({"vocab_size": None}, "no vocab_size"),
        ({"quantization_config": {"quant_method": "awq", "bits": 4}}, "quantised weights .awq, 4 bit"),
        ({"quantization_config": {"quant_method": "gptq", "bits": 8}}, "quantised weights .gptq, 8 bit"),
        ({"quantization_config": {"quant_method": "fp8"}}, "quantised weights .fp8;"),
        ({"quantization_config": {"load_in_4bit": True}}, "quantised weights .bitsandbytes, 4 bit"),
        ({"quantization_config": {"_load_in_8bit": True, "load_in_8bit": True}}, "bitsandbytes, 8 bit"),
    ],
)
def test_unsupported_language_model_is_refused(
    tmp_path: Path, language: Path, changes: dict[str, Any], message: str
) -> None:
    if "rope_scaling" in changes:
        edit_config(language, rope_parameters=None)
    edit_config(language, **changes)
    with pytest.raises(InputError, match=message):
        run(tmp_path, "language")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"architectures": ["Siglip2VisionModel"], "model_type": "siglip2"},
            r"is a Siglip2VisionModel: SigLIP 2 with pictures of any shape.*As vision tower, these are supported: clip",
        ),
        ({"architectures": ["SiglipVisionModel"]}, "is a SiglipVisionModel"),
        ({"image_size": [24, 32]}, "only squares"),
        ({"hidden_act": "relu"}, "hidden_act = 'relu'"),
        ({"num_channels": 1}, "num_channels = 1"),
    ],
)
def test_unsupported_vision_tower_is_refused(
    tmp_path: Path, vision: Path, changes: dict[str, Any], message: str
) -> None:
    edit_config(vision, **changes)
    with pytest.raises(InputError, match=message):
        run(tmp_path, "vision")


def test_older_config_spellings() -> None:
    older = {
        "architectures": ["MistralForCausalLM"],
        "model_type": "mistral",
        "num_hidden_layers": 2,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_attention_heads": 4,
        "vocab_size": 32000,
        "max_position_embeddings": 32768,
        "rms_norm_eps": 1e-5,
        "rope_theta": 1e6,
        "sliding_window": 4096,
    }
    config = read_language(HfConfig(older, "test"), 1024)
    assert (config.num_query_groups, config.kv_channels, config.rotary_base) == (4, 16, 1e6)
    assert (config.padded_vocabulary_size, config.max_position_embeddings) == (32768, 4096)


def test_feature_layer_beyond_the_tower(tmp_path: Path, vision: Path) -> None:
    with pytest.raises(InputError, match="no layer -9"):
        run(tmp_path, "vision", feature_layer=-9)
    with pytest.raises(ValueError, match="leaves none"):
        VisionConfig(**{**small_tower(), "feature_layer": -4})


def small_tower() -> dict[str, Any]:
    sizes = {"num_layers": 3, "hidden_size": 8, "ffn_hidden_size": 8, "num_attention_heads": 2}
    return {**sizes, "image_size": 16, "patch_size": 8, "norm_epsilon": 1e-5}


def test_missing_tensor_is_named(tmp_path: Path, language: Path) -> None:
    tensors = load_file(language / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, language / "model.safetensors")
    with pytest.raises(InputError, match=r"lacks model\.layers\.1\.mlp\.up_proj\.weight"):
        run(tmp_path, "language")


def test_unknown_tensor_is_named(tmp_path: Path, language: Path) -> None:
    tensors = load_file(language / "model.safetensors")
    save_file({**tensors, "model.layers.0.self_attn.q_proj.bias": torch.zeros(64)}, language / "model.safetensors")
    with pytest.raises(InputError, match=r"no place for: model\.layers\.0\.self_attn\.q_proj\.bias"):
        run(tmp_path, "language")


@pytest.mark.parametrize("name", ["model.norm.weight", "model.layers.0.self_attn.k_proj.weight", "lm_head.weight"])
def test_wrong_shape_is_named(tmp_path: Path, language: Path, name: str) -> None:
    tensors = load_file(language / "model.safetensors")
    save_file({**tensors, name: tensors[name][:-1].contiguous()}, language / "model.safetensors")
    with pytest.raises(InputError, match=name.replace(".", r"\.")):
        run(tmp_path, "language")


def test_value_that_is_not_finite_is_refused(tmp_path: Path, language: Path) -> None:
    tensors = load_file(language / "model.safetensors")
    tensors["model.norm.weight"][3] = math.inf
    save_file(tensors, language / "model.safetensors")
    with pytest.raises(InputError, match="not finite"):
        run(tmp_path, "language")


def test_broken_files_are_named(tmp_path: Path, language: Path) -> None:
    finished_weights(tmp_path / "weights")
    mistral(language, num_hidden_layers=2).save_pretrained(language, max_shard_size="60KB")
    (language / "model.safetensors").unlink()
    first, second, *_ = sorted(language.glob("*.safetensors"))
    content = second.read_bytes()
    second.write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match=f"{second.name} is truncated"):
        run(tmp_path, "language")
    second.write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(InputError, match=f"{second.name} is truncated or not a safetensors file"):
        run(tmp_path, "language")
    second.write_bytes(first.read_bytes())
    with pytest.raises(InputError, match=f"{second.name} does not hold"):
        run(tmp_path, "language")
    second.unlink()
    with pytest.raises(InputError, match=f"{second.name} is missing"):
        run(tmp_path, "language")
    index = language / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"model.norm.weight": "../outside.safetensors"}}))
    with pytest.raises(InputError, match="same folder"):
        run(tmp_path, "language")
    index.write_text("{}")
    with pytest.raises(InputError, match="not an index"):
        run(tmp_path, "language")
    index.unlink()
    with pytest.raises(InputError, match="holds no weights"):
        run(tmp_path, "language")


def test_missing_tokenizer_or_config_is_named(tmp_path: Path, language: Path) -> None:
    finished_weights(tmp_path / "weights")
    config = (language / "config.json").read_text()
    (language / "config.json").write_text("{")
    with pytest.raises(InputError, match=r"config\.json is not valid JSON"):
        run(tmp_path, "language")
    (language / "config.json").unlink()
    with pytest.raises(InputError, match=r"config\.json can't be read"):
        run(tmp_path, "language")
    (language / "config.json").write_text(config)
    (language / "tokenizer.json").unlink()
    with pytest.raises(InputError, match=r"tokenizer\.json is missing"):
        run(tmp_path, "language")


def as_torch_files(folder: Path, files: int) -> None:
    """Replace safetensors by what older repositories have."""
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    if files == 1:
        torch.save(tensors, folder / "pytorch_model.bin")
        return
    names = sorted(tensors)
    index = {name: f"pytorch_model-{number % files}.bin" for number, name in enumerate(names)}
    for file in set(index.values()):
        torch.save({name: tensors[name] for name in names if index[name] == file}, folder / file)
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": index}))


@pytest.mark.parametrize("files", [1, 3])
def test_torch_files_are_read(tmp_path: Path, vision: Path, files: int) -> None:
    as_torch_files(vision, files)
    facts = run(tmp_path, "vision").manifest.facts
    assert 0 <= facts["max_logit_difference"] <= TOLERANCE
    assert facts["mapped"] > 20


def test_broken_torch_files_are_named(tmp_path: Path, vision: Path) -> None:
    finished_weights(tmp_path / "weights")
    as_torch_files(vision, 3)
    path = vision / "pytorch_model-1.bin"
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match=r"pytorch_model-1\.bin is damaged"):
        run(tmp_path, "vision")
    torch.save([1, 2], path)
    with pytest.raises(InputError, match="must hold a dictionary of tensors"):
        run(tmp_path, "vision")
    torch.save({}, path)
    with pytest.raises(InputError, match="does not hold the tensor"):
        run(tmp_path, "vision")
    path.unlink()
    with pytest.raises(InputError, match=r"pytorch_model-1\.bin is missing"):
        run(tmp_path, "vision")


@settings(max_examples=12, deadline=None)
@given(
    groups=st.integers(1, 4),
    queries=st.integers(1, 3),
    width=st.sampled_from([2, 6, 8]),
    vocabulary=st.integers(7, 40),
    multiple=st.sampled_from([1, 8, 24]),
    rotary_base=st.sampled_from([100.0, 1e4, 1e6]),
)
def test_any_shape_of_language_model_is_converted(
    groups: int, queries: int, width: int, vocabulary: int, multiple: int, rotary_base: float
) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tokenizer(folder / "weights" / "language")
        mistral(
            folder / "weights" / "language",
            num_attention_heads=groups * queries,
            num_key_value_heads=groups,
            head_dim=width,
            hidden_size=20,
            intermediate_size=12,
            num_hidden_layers=1,
            vocab_size=vocabulary,
            rope_theta=rotary_base,
            bos_token_id=1,
            eos_token_id=2,
        )
        output = run(folder, "language", make_vocab_size_divisible_by=multiple)
        assert output.manifest.facts["max_logit_difference"] <= TOLERANCE
        config = read_stored(output.folder, LanguagePart).config
        assert config.padded_vocabulary_size % multiple == 0
        assert 0 <= config.padded_vocabulary_size - vocabulary < multiple


@settings(max_examples=8, deadline=None)
@given(
    heads=st.integers(1, 4), width=st.integers(1, 9), layers=st.integers(1, 3), feature_layer=st.sampled_from([-1, -2])
)
def test_any_shape_of_vision_tower_is_converted(heads: int, width: int, layers: int, feature_layer: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        clip(
            folder / "weights" / "vision",
            num_attention_heads=heads,
            hidden_size=heads * width,
            num_hidden_layers=layers + 1,
            intermediate_size=10,
        )
        assert run(folder, "vision", feature_layer=feature_layer).manifest.facts["max_logit_difference"] <= TOLERANCE


def test_adapter_is_named(tmp_path: Path, language: Path) -> None:
    (language / "config.json").unlink()
    settings = {"peft_type": "LORA", "base_model_name_or_path": "Qwen/Qwen2.5-0.5B"}
    (language / "adapter_config.json").write_text(json.dumps(settings))
    with pytest.raises(InputError, match=r"holds a LORA adapter.*differences to Qwen/Qwen2\.5-0\.5B.*merge_and_unload"):
        run(tmp_path, "language")


def test_omitted_fields_are_filled_as_transformers_fills_them() -> None:
    for name, config in (("clip", CLIPVisionConfig()), ("siglip", SiglipVisionConfig())):
        family = vision_family(name)
        bare = HfConfig({"architectures": [family.architectures[0]], "model_type": config.model_type}, "test")
        whole = HfConfig({**bare.content, **config.to_dict()}, "test")
        assert read_vision(bare, -1) == read_vision(whole, -1)


def test_a_tower_within_a_whole_model_is_read() -> None:
    inner = {"hidden_size": 64, "num_attention_heads": 4, "image_size": 384, "patch_size": 14, "num_hidden_layers": 5}
    whole = HfConfig({"architectures": ["SiglipModel"], "model_type": "siglip", "vision_config": inner}, "test")
    config = read_vision(whole, -2)
    assert (config.hidden_size, config.patches, config.places, config.built_layers) == (64, 27 * 27, 27 * 27, 4)


def test_older_files_bring_frequencies_that_follow_from_the_base(tmp_path: Path, language: Path) -> None:
    tensors = load_file(language / "model.safetensors")
    extra = {f"model.layers.{layer}.self_attn.rotary_emb.inv_freq": torch.ones(8) for layer in range(2)}
    save_file({**tensors, **extra}, language / "model.safetensors")
    report = json.loads((run(tmp_path, "language").folder / "conversion_report.json").read_text())
    assert {drop["name"] for drop in report["dropped"]} == set(extra)
