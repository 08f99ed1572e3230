"""Export: folders that transformers loads unaided, with the checkpoint's logits and answers; refusals; nothing half-done."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image, ImageDraw
from safetensors import safe_open
from torch import Tensor
from transformers import AutoConfig

from components.data.image import normalise
from components.data.packing import pack
from components.data.prompt import encode_prompt
from components.data.tokenizer import ChatTokenizer
from components.errors import ConfigurationError, InputError, StageError
from components.export import architecture, card, processing, tensors
from components.export.config import ExportConfig
from components.export.stage import export_to, run_export
from components.model.config import read_model_config
from components.model.decoding import generate
from components.model.distributed import single_process
from components.model.families.language.decoder import decoder_rules
from components.model.families.language.registry import language_family
from components.stage.runner import StageOutput
from pipelines.cli import main
from tests.support.export_world import TEXT_TOKENS, Sources, image_token_beyond, loaded
from tests.support.model_samples import TOLERANCE
from tests.support.paths import SUPPORT
from tests.support.ranks import Ranks
from tests.support.slow_export import export_slowly

NEW_TOKENS = 12


@dataclass(frozen=True)
class Kind:
    """A model folder and how it is exported."""

    sources: dict[str, Any]
    settings: dict[str, Any]


LLAMA3_SCALING = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
SIGLIP_2 = {
    "image_processor_type": "SiglipImageProcessor",
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
    "resample": 2,
}
KINDS = {
    "stock": Kind({}, {"max_shard_bytes": 100_000}),
    "wide, tied": Kind(
        {"language": {"tie_word_embeddings": True, "num_key_value_heads": 4}, "projector": {"ffn_hidden_size": 40}},
        {"custom_code": True, "max_shard_bytes": 100_000},
    ),
    "image token beyond, gelu, layer -2": Kind(
        {
            "language": {"vocab_size": TEXT_TOKENS},
            "vision": {"hidden_act": "gelu"},
            "projector": {"activation": "gelu"},
            "write_tokenizer": image_token_beyond,
            "feature_layer": -2,
        },
        {},
    ),
    "mlp2x_gelu": Kind({"projector": {"activation": "gelu", "bias": True, "init": "uniform"}}, {}),
    "deep, shuffled": Kind(
        {
            "vision": {"image_size": 32},
            "projector": {"depth": 3, "ffn_hidden_size": 56, "bias": True, "init": "uniform"},
            "image": {"pixel_shuffle": 2},
        },
        {"custom_code": True},
    ),
    "image token beyond, tied": Kind(
        {"language": {"vocab_size": TEXT_TOKENS, "tie_word_embeddings": True}, "write_tokenizer": image_token_beyond},
        {},
    ),
    "Qwen 2.5, SigLIP, 28 pixels in patches of 8": Kind(
        {
            "families": ("qwen2", "siglip"),
            "language": {"tie_word_embeddings": True, "max_position_embeddings": 256},
            "vision": {"image_size": 28},
            "projector": {"activation": "gelu"},
            "image": {"layout": "squash"},
        },
        {},
    ),
    "Llama 3, SigLIP 2": Kind(
        {
            "families": ("llama", "siglip"),
            "language": {"rope_scaling": LLAMA3_SCALING, "max_position_embeddings": 256},
            "preprocessor": SIGLIP_2,
            "image": {"layout": "squash"},
            "feature_layer": -2,
        },
        {"max_shard_bytes": 100_000},
    ),
    "Qwen 3, SigLIP, padded": Kind({"families": ("qwen3", "siglip"), "language": {"max_position_embeddings": 256}}, {}),
}
BEYOND = [name for name in KINDS if name.startswith("image token beyond")]


@dataclass(frozen=True)
class Exported:
    """A model folder and its export."""

    sources: Sources
    output: StageOutput


@pytest.fixture(scope="module")
def exports(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Exported]:
    made = {}
    for number, (name, kind) in enumerate(KINDS.items()):
        sources = Sources(tmp_path_factory.mktemp(f"kind{number}"), **kind.sources)
        config = ExportConfig(verify_tokens=3, tolerance=TOLERANCE, pixel_tolerance=TOLERANCE, **kind.settings)
        made[name] = Exported(sources, run_export(sources.context, config, sources.model))
    return made


@dataclass(frozen=True)
class Case:
    """A question with a picture file, or without."""

    question: str
    picture: str


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> list[Case]:
    folder = tmp_path_factory.mktemp("pictures")
    made = [Case("what is it?", "")]
    # Sizes that both sides bring to the same height and width; the last ones only the folder's own code does.
    for number, size in enumerate([(24, 24), (96, 48), (60, 120), (300, 200), (31, 47)]):
        image = Image.effect_noise(size, 90).convert("RGB")
        ImageDraw.Draw(image).ellipse((2, 3, size[0] // 2, size[1] // 2), fill=(200, 40 * number, 30))
        image.save(folder / f"{number}.png")
        made.append(Case(f"Is there a [INST] red circle,\n</s> number {number}?", str(folder / f"{number}.png")))
    return made


@pytest.fixture(scope="module")
def unaided(
    exports: dict[str, Exported], cases: list[Case], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, dict[str, Any]]:
    """What transformers makes of the folders in a process that knows nothing of this project."""
    folder = tmp_path_factory.mktemp("unaided")
    task = {
        "exports": [
            {"folder": str(exported.output.folder), "trusted": "custom_code" in KINDS[name].settings}
            for name, exported in exports.items()
        ],
        "cases": [vars(case) for case in cases],
        "new_tokens": NEW_TOKENS,
        "results": str(folder / "results.pt"),
    }
    (folder / "task.json").write_text(json.dumps(task))
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    subprocess.run(
        [sys.executable, "-P", str(SUPPORT / "export_loader.py"), str(folder / "task.json")],
        cwd=folder,
        env={**environment, "HF_HUB_OFFLINE": "1", "HF_MODULES_CACHE": str(folder / "modules")},
        check=True,
    )
    return dict(zip(exports, torch.load(folder / "results.pt", weights_only=True), strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_a_server_finds_what_it_starts_from(kind: str, exports: dict[str, Exported]) -> None:
    """KServe takes a folder for vLLM's whose class vLLM has; vLLM reads defaults, template and processor from these files."""
    folder = exports[kind].output.folder
    config = json.loads((folder / "config.json").read_text())
    wide = "custom_code" in KINDS[kind].settings
    assert config["architectures"] == [f"{'Wide' if wide else ''}LlavaForConditionalGeneration"]
    assert ("auto_map" in config) == wide
    if not wide:
        assert type(AutoConfig.from_pretrained(folder, trust_remote_code=False)).__name__ == "LlavaConfig"
    generation = json.loads((folder / "generation_config.json").read_text())
    assert generation["eos_token_id"] == config["eos_token_id"] == config["text_config"]["eos_token_id"]
    assert config["image_token_index"] in generation["suppress_tokens"]
    for name in ("chat_template.jinja", "tokenizer.json", "processor_config.json", "preprocessor_config.json"):
        assert (folder / name).stat().st_size


@pytest.mark.parametrize("kind", KINDS)
def test_transformers_alone_gives_the_checkpoints_logits_and_answers(
    kind: str, exports: dict[str, Exported], cases: list[Case], unaided: dict[str, dict[str, Any]]
) -> None:
    found = unaided[kind]
    wide = "custom_code" in KINDS[kind].settings
    assert found["class"] == ("WideLlavaForConditionalGeneration" if wide else "LlavaForConditionalGeneration")
    assert found["problems"] == {}
    squashed = read_model_config(exports[kind].sources.model).image.layout == "squash"
    processor = (
        "WideLlavaImageProcessor" if wide else "SiglipImageProcessorPil" if squashed else "CLIPImageProcessorPil"
    )
    assert found["image_processor"] == processor
    with single_process():
        answers = compare(exports[kind].sources.model, cases, found["answers"], exact_pixels=wide or squashed)
    assert answers >= 4


def compare(source: Path, cases: list[Case], found: list[dict[str, Any]], *, exact_pixels: bool) -> int:
    """Ask the model itself the same, and return how many answers could be compared."""
    model, tokenizer, config = loaded(source), ChatTokenizer.load(source / "tokenizer"), read_model_config(source)
    rows = config.language.vocabulary_size
    compared = 0
    for case, answer in zip(cases, found, strict=True):
        picture = Image.open(case.picture) if case.picture else None
        if picture and not exact_pixels and rounded_differently(picture, config.image.size):
            continue
        prompt = encode_prompt(
            case.question,
            [picture] if picture else [],
            tokenizer=tokenizer,
            settings=config.image,
            prompt_format="instruct",
        )
        assert answer["prompt"].tolist() == prompt.tokens.tolist()
        (batch,) = pack([prompt], sequence_length=prompt.length)
        with torch.no_grad():
            logits = model(batch, normalise(batch.pixels, batch.valid, config.image) if picture else None)
        assert logits[:, :rows].abs().max() > 0.5
        assert (logits[:, :rows] - answer["logits"][:, :rows]).abs().max() <= TOLERANCE
        (tokens,) = generate(model, [prompt], end_tokens=tokenizer.ends, max_new_tokens=NEW_TOKENS)
        given, end = answer["tokens"][: len(tokens)], answer["tokens"][len(tokens) :]
        assert given == tokens
        assert set(end) <= set(tokenizer.ends)
        assert len(end) == int(len(tokens) < NEW_TOKENS)
        assert answer["text"].removeprefix(" ") == tokenizer.decode(tokens)
        compared += 1
    return compared


def rounded_differently(picture: Image.Image, size: int) -> bool:
    """Whether stock Llava cuts off where training rounded."""
    shorter, longer = sorted(picture.size)
    return int(shorter * (size / longer)) != round(shorter * size / longer) or int(longer * (size / longer)) != size


def test_rows_that_the_model_does_not_have_are_never_chosen(unaided: dict[str, dict[str, Any]]) -> None:
    for kind in BEYOND:
        answers = unaided[kind]["answers"]
        logits = torch.cat([answer["logits"] for answer in answers])
        assert logits.shape[1] == TEXT_TOKENS + 1
        assert not logits[:, TEXT_TOKENS:].any()  # zero, not minus infinity: it is the setting that keeps them out
        assert all(token < TEXT_TOKENS for answer in answers for token in answer["tokens"])


def exported_tensors(folder: Path) -> dict[str, Tensor]:
    found = {}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            found.update({name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118
    return found


@pytest.mark.parametrize("families", [("mistral", "clip"), ("qwen2", "siglip")], ids="-".join)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_the_way_there_and_back_changes_no_bit(dtype: torch.dtype, families: tuple[str, str], tmp_path: Path) -> None:
    sources = Sources(tmp_path, dtype=dtype, families=families, feature_layer=-2)
    config = ExportConfig(verify_tokens=1, tolerance=TOLERANCE)
    output = run_export(sources.context, config, sources.model)
    found = exported_tensors(output.folder)
    assert {tensor.dtype for tensor in found.values()} == {dtype}
    expected = {}
    for name, value in exported_tensors(sources.weights / "language").items():
        expected[f"language_model.{name}"] = value
    for name, value in exported_tensors(sources.weights / "vision").items():
        if not name.startswith(("encoder.layers.2.", "post_layernorm.", "head.")):
            expected[f"vision_tower.vision_model.{name}"] = value
    for name, value in expected.items():
        assert torch.equal(found[name], value), name
    extra = {name for name in found if name not in expected}
    assert extra == {
        "multi_modal_projector.linear_1.weight",
        "multi_modal_projector.linear_2.weight",
        "vision_tower.vision_model.post_layernorm.weight",
        "vision_tower.vision_model.post_layernorm.bias",
    }
    assert output.manifest.facts["dtype"] == str(dtype).removeprefix("torch.")


def test_report_names_every_tensor_and_every_constant(exports: dict[str, Exported]) -> None:
    for name, exported in exports.items():
        folder = exported.output.folder
        report = json.loads((folder / "export_report.json").read_text())
        written = exported_tensors(folder)
        assert {entry["name"]: tuple(entry["shape"]) for entry in report["tensors"]} == {
            tensor: tuple(value.shape) for tensor, value in written.items()
        }
        parameters = {entry["parameter"] for entry in report["tensors"]} - {""}
        with single_process():
            model = loaded(exported.sources.model)
        assert parameters == {parameter for parameter, _ in model.named_parameters()}
        added = {entry["name"]: entry for entry in report["constants"]}
        assert all(entry["reason"] for entry in added.values())
        whole = {entry["name"] for entry in report["tensors"] if not entry["parameter"]}
        assert whole == {constant for constant, entry in added.items() if entry["rows"] is None}
        partly = sum(entry["rows"] == [TEXT_TOKENS, TEXT_TOKENS] for entry in added.values())
        assert partly == (0 if name not in BEYOND else 1 if "tied" in name else 2)


def card_of(exported: Exported) -> str:
    return (exported.output.folder / "README.md").read_text()


def test_facts_are_measured(exports: dict[str, Exported]) -> None:
    for exported in exports.values():
        facts = exported.output.manifest.facts
        families = exported.sources.families
        assert (facts["language_family"], facts["vision_family"]) == families
        assert f"of the family {families[0]}, the vision tower of {families[1]}" in card_of(exported)
        assert 0 <= facts["max_logit_difference"] <= TOLERANCE
        assert 0 <= facts["max_pixel_difference"] <= TOLERANCE
        assert facts["greedy_tokens"] >= 4
        assert facts["sizes_alike"] == facts["sizes"] or not facts["custom_code"]


def test_files_stay_below_their_size(exports: dict[str, Exported]) -> None:
    folder = exports["stock"].output.folder
    files = sorted(folder.glob("model-*.safetensors"))
    assert len(files) == exports["stock"].output.manifest.facts["files"] > 3
    assert all(path.stat().st_size < 110_000 for path in files)
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == exports["stock"].output.manifest.facts["bytes"]


def test_card_says_how_to_load_it_and_what_it_was_made_from(exports: dict[str, Exported]) -> None:
    stock, wide, bilinear = (card_of(exports[kind]) for kind in ("stock", "wide, tied", "Llama 3, SigLIP 2"))
    assert "squash to 24 x 24 pixels, resized by PIL's bilinear filter" in bilinear
    assert "rounds down" not in bilinear
    assert "trust_remote_code=True" in wide
    assert "a projector of its own shape (32 -> 40 -> 48)" in wide
    deep = (exports["deep, shuffled"].output.folder / "README.md").read_text()
    assert "a projector of its own shape (4 x 32 -> 56 -> 56 -> 48)" in deep
    assert "trust_remote_code" not in stock
    assert "rounds down" in stock
    for stage in ("weight_conversion/language", "weight_conversion/vision", "combine"):
        assert f"| {stage} |" in stock


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("s3://bucket/weights", "s3://bucket/weights"),
        ("https://me:secret@host:8443/data.zip?signature=secret#x", "https://host:8443/data.zip"),
        ("scenes://", "scenes://"),
        ("file:///data/llava", "file:///data/llava"),
        ("", ""),
    ],
)
def test_card_shows_no_secrets_of_an_address(address: str, shown: str) -> None:
    assert card._public(address) == shown


def test_type_can_be_chosen(exports: dict[str, Exported], tmp_path: Path) -> None:
    model = exports["stock"].sources.model
    facts = export_to(ExportConfig(dtype="bfloat16", verify_tokens=1, tolerance=TOLERANCE), model, tmp_path / "half")
    whole, half = exported_tensors(exports["stock"].output.folder), exported_tensors(tmp_path / "half")
    assert facts["bytes"] * 2 == exports["stock"].output.manifest.facts["bytes"]
    assert all(torch.equal(half[name], value.bfloat16()) for name, value in whole.items())


def test_unverified_is_recorded(exports: dict[str, Exported], tmp_path: Path) -> None:
    facts = export_to(ExportConfig(verify=False), exports["stock"].sources.model, tmp_path / "out")
    assert facts["max_logit_difference"] == "not verified"
    assert "Not verified" in (tmp_path / "out" / "README.md").read_text()


def exchanged_gate_and_up(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(config: Any) -> Any:
        return [
            type(rule)(rule.target, rule.sources[::-1], rule.join, rule.split) if len(rule.sources) == 2 else rule
            for rule in decoder_rules(config)
        ]

    family = dataclasses.replace(language_family("mistral"), rules=wrong)
    monkeypatch.setattr(tensors, "language_family", lambda _: family)


def wrong_setting(section: str, name: str, value: Any) -> Callable[[pytest.MonkeyPatch], None]:
    right = architecture.model_settings

    def spoil(monkeypatch: pytest.MonkeyPatch) -> None:
        def wrong(*arguments: Any, **options: Any) -> Any:
            settings = right(*arguments, **options)
            setattr(getattr(settings, section) if section else settings, name, value)
            return settings

        monkeypatch.setattr(architecture, "model_settings", wrong)

    return spoil


def wrong_mean(monkeypatch: pytest.MonkeyPatch) -> None:
    right = processing.image_processor_settings
    monkeypatch.setattr(
        processing, "image_processor_settings", lambda *a, **o: {**right(*a, **o), "image_mean": [0.5, 0.5, 0.5]}
    )


def wrong_size(monkeypatch: pytest.MonkeyPatch) -> None:
    right = processing.image_processor_settings
    square = {"height": 24, "width": 24}
    monkeypatch.setattr(processing, "image_processor_settings", lambda *a, **o: {**right(*a, **o), "size": square})


def wrong_filter(monkeypatch: pytest.MonkeyPatch) -> None:
    right = processing.image_processor_settings
    monkeypatch.setattr(processing, "image_processor_settings", lambda *a, **o: {**right(*a, **o), "resample": 2})


def wrong_template(monkeypatch: pytest.MonkeyPatch) -> None:
    def copy(source: Path, target: Path) -> None:
        target.write_text(source.read_text().replace("[/INST]'", " [/INST]'"))

    monkeypatch.setattr(processing, "copyfile", copy)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (exchanged_gate_and_up, "logits differ"),
        (wrong_setting("text_config", "rope_parameters", {"rope_type": "default", "rope_theta": 1e4}), "logits differ"),
        (wrong_setting("text_config", "rms_norm_eps", 1e-3), "logits differ"),
        (wrong_setting("vision_config", "hidden_act", "gelu"), "logits differ"),
        (wrong_setting("", "projector_hidden_act", "gelu"), "logits differ"),
        (wrong_setting("", "vision_feature_layer", -2), "logits differ"),
        (wrong_mean, "pixels differ"),
        (wrong_size, "height, width"),
        (wrong_filter, "pixels differ"),
        (wrong_template, "other tokens than training"),
    ],
)
def test_a_wrong_export_is_caught(
    spoil: Callable[[pytest.MonkeyPatch], None],
    message: str,
    exports: dict[str, Exported],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    spoil(monkeypatch)
    with pytest.raises(StageError, match=message):
        export_to(ExportConfig(verify_tokens=1), exports["stock"].sources.model, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("kind", "difference", "remedy"),
    [
        ("wide, tied", "is 40 wide", "combine.projector.ffn_hidden_size=48"),
        (
            "deep, shuffled",
            "is of depth 3, 56 wide, fed with 2 x 2 patches at a time",
            "combine.projector.depth=2, combine.projector.ffn_hidden_size=48, combine.image.pixel_shuffle=1",
        ),
    ],
)
def test_what_stock_llava_has_not_is_refused_without_code(
    exports: dict[str, Exported], kind: str, difference: str, remedy: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigurationError, match=r"as wide as the language model \(48\).*custom_code=true") as caught:
        export_to(ExportConfig(), exports[kind].sources.model, tmp_path / "out")
    assert f"this model's {difference}. Set" in str(caught.value)
    assert f"Or train with {remedy}." in str(caught.value)


def test_folder_that_exists_is_refused(exports: dict[str, Exported], tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(ConfigurationError, match="exists"):
        export_to(ExportConfig(), exports["stock"].sources.model, tmp_path / "out")


def other_image_token(model: Path) -> None:
    content = json.loads((model / "model.json").read_text())
    (model / "model.json").write_text(json.dumps({**content, "image_token_id": 7}))


def without_manifest(model: Path) -> None:
    (model / "manifest.json").unlink()


def truncated(model: Path) -> None:
    victim = max((model / "checkpoint").glob("*.distcp"), key=lambda path: path.stat().st_size)
    victim.write_bytes(victim.read_bytes()[:100])


def greedy_tokenizer(model: Path) -> None:
    path = model / "tokenizer" / "tokenizer.json"
    content = json.loads(path.read_text())
    word = {"id": content["model"]["vocab"]["a"], "content": "a", "special": False, "normalized": False}
    content["added_tokens"].append({**word, "single_word": False, "lstrip": False, "rstrip": False})
    path.write_text(json.dumps(content))


def keep_manifest_true(model: Path) -> None:
    manifest = json.loads((model / "manifest.json").read_text())
    for name in ("model.json", "tokenizer/tokenizer.json"):
        manifest["files"][name]["size"] = (model / name).stat().st_size
    (model / "manifest.json").write_text(json.dumps(manifest))


def test_a_tokenizer_that_cuts_a_letter_out_of_words_is_expressed(exports: dict[str, Exported], tmp_path: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(exports["stock"].sources.model, model)
    greedy_tokenizer(model)
    keep_manifest_true(model)
    facts = export_to(ExportConfig(verify_tokens=1, tolerance=TOLERANCE), model, tmp_path / "out")  # compares token ids
    assert facts["max_logit_difference"] <= TOLERANCE


def of_another_model(model: Path) -> None:
    content = json.loads((model / "model.json").read_text())
    content["language"]["ffn_hidden_size"] = 88
    (model / "model.json").write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("spoil", "error", "message"),
    [
        (without_manifest, StageError, "not a finished stage folder"),
        (other_image_token, InputError, "image token 5, model.json says 7"),
        (truncated, StageError, "bytes, manifest.json says"),
        (of_another_model, InputError, "does not fit the model"),
    ],
)
def test_what_is_broken_is_refused(
    spoil: Callable[[Path], None],
    error: type[Exception],
    message: str,
    exports: dict[str, Exported],
    tmp_path: Path,
) -> None:
    model = tmp_path / "model"
    shutil.copytree(exports["stock"].sources.model, model)
    spoil(model)
    if spoil in (other_image_token, of_another_model):
        keep_manifest_true(model)
    with pytest.raises(error, match=message):
        export_to(ExportConfig(), model, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_values_that_are_not_finite_are_refused(
    exports: dict[str, Exported], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from components.model.checkpoint.streamed import ParameterReader

    right = ParameterReader.__call__
    monkeypatch.setattr(
        ParameterReader, "__call__", lambda self, name: right(self, name) * (float("nan") if "fc2" in name else 1)
    )
    with pytest.raises(InputError, match="not finite"):
        export_to(ExportConfig(), exports["stock"].sources.model, tmp_path / "out")


def test_full_disk_is_seen_before_anything_is_written(
    exports: dict[str, Exported], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10, 9, 1))
    with pytest.raises(StageError, match="needs .* bytes below"):
        export_to(ExportConfig(), exports["stock"].sources.model, tmp_path / "out")


@pytest.mark.parametrize("way", ["stage", "command"])
def test_killed_export_leaves_nothing_finished_and_the_next_one_succeeds(
    way: str, exports: dict[str, Exported], tmp_path: Path
) -> None:
    sources = exports["stock"].sources
    context = sources.context.model_copy(update={"workspace": tmp_path / "workspace"})
    folder = tmp_path / "out"
    config = ExportConfig(verify=False, max_shard_bytes=70_000)
    process = Ranks(1, export_slowly, config, sources.model, context if way == "stage" else folder)
    process.kill_when(lambda: any(tmp_path.rglob("model-00001-of-*.safetensors")))
    assert not folder.exists()
    assert not list(tmp_path.rglob("manifest.json"))
    if way == "stage":
        folder = run_export(context, config, sources.model).folder
    else:
        export_to(config, sources.model, folder)
    assert not list(folder.glob("*.tmp"))
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    assert set(index["weight_map"].values()) == {path.name for path in folder.glob("*.safetensors")}


def test_files_of_an_interrupted_run_do_not_stay(exports: dict[str, Exported], tmp_path: Path) -> None:
    sources = exports["stock"].sources
    context = sources.context.model_copy(update={"workspace": tmp_path})
    config = ExportConfig(verify=False)
    first = run_export(context, config, sources.model).folder
    (first / "manifest.json").unlink()
    (first / "model-00001-of-00009.safetensors").write_bytes(b"left")
    again = run_export(context, config, sources.model)
    assert again.folder == first
    assert "model-00001-of-00009.safetensors" not in again.manifest.files
    assert run_export(context, config, sources.model).reused


def test_command(exports: dict[str, Exported], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, out = str(exports["wide, tied"].sources.model), str(tmp_path / "out")
    unverified = ["--set", "export.verify=false"]
    assert main(["export", model, "-o", out, *unverified]) == 1
    assert "export.custom_code=true" in capsys.readouterr().err
    assert main(["export", model, "-o", out, *unverified, "--set", "export.custom_code=true"]) == 0
    assert capsys.readouterr().out.strip().endswith(out)
    assert (Path(out) / "modeling_wide_llava.py").is_file()
    assert main(["export", model, "-o", out]) == 1
    assert "exists" in capsys.readouterr().err
    assert main(["export", model, "-o", f"{out}2", "--set", "export.verify_token=3"]) == 1
    assert "did you mean export.verify_tokens" in capsys.readouterr().err
    assert main(["export", model, "-o", f"{out}2", "--set", "sft.recipe.iterations=3"]) == 1
    assert "not a setting of the export" in capsys.readouterr().err
