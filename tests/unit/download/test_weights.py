"""Random weights and given weights: what transformers loads, and what is refused."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from components.context import RunContext
from components.download.config import DatasetConfig, ScenesConfig
from components.download.stage import run_download_dataset, run_download_weights
from components.download.weights_config import WeightsConfig
from components.errors import ConfigurationError, InputError
from components.model.families.hf_config import read_hf_config
from components.model.families.language.registry import LANGUAGE_FAMILIES, read_language
from components.model.families.vision.registry import VISION_FAMILIES, read_vision
from tests.support.chats import control_id, prepared

LANGUAGE: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "initializer_range": 0.08,
    "rope_theta": 10000.0,
    "max_position_embeddings": 256,
}
VISION: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": 32,
    "patch_size": 16,
}
CONFIG = WeightsConfig.model_validate({"language": LANGUAGE, "vision": VISION, "vocabulary": 640})


def context(folder: Path) -> RunContext:
    return RunContext(run_id="t", run_name="t", workspace=folder)


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    scenes = ScenesConfig(pictures=60, held_out_pictures=4, side=32)
    return run_download_dataset(context(tmp_path_factory.mktemp("raw")), DatasetConfig(scenes=scenes)).folder


@pytest.fixture(scope="module")
def weights(raw: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run_download_weights(context(tmp_path_factory.mktemp("weights")), CONFIG, raw).folder


def content(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != "manifest.json")
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def test_equal_settings_give_equal_bytes(raw: Path, weights: Path, tmp_path: Path) -> None:
    assert content(run_download_weights(context(tmp_path), CONFIG, raw).folder) == content(weights)


def test_another_seed_changes_weights_alone(raw: Path, weights: Path, tmp_path: Path) -> None:
    other = run_download_weights(context(tmp_path), CONFIG.model_copy(update={"seed": 1}), raw).folder
    changed = {name for name, data in content(other).items() if data != content(weights)[name]}
    assert changed == {"language/model.safetensors", "vision/model.safetensors"}


def test_transformers_loads_the_language_model(weights: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, MistralForCausalLM

    model = AutoModelForCausalLM.from_pretrained(weights / "language")
    assert isinstance(model, MistralForCausalLM)
    tokenizer = AutoTokenizer.from_pretrained(weights / "language")
    assert model.config.vocab_size == len(tokenizer) <= 640
    assert 0.07 < model.model.layers[0].mlp.up_proj.weight.std() < 0.09
    tokens = tokenizer("a small red circle", return_tensors="pt").input_ids
    assert tokens[0, 0] == tokenizer.bos_token_id == 1
    with torch.no_grad():
        assert model(tokens).logits.isfinite().all()


def test_transformers_loads_the_vision_model(weights: Path) -> None:
    import torch
    from transformers import CLIPVisionModel

    model = CLIPVisionModel.from_pretrained(weights / "vision")
    with torch.no_grad():
        assert model(torch.zeros(1, 3, 32, 32)).last_hidden_state.shape == (1, 5, 32)


def test_special_tokens_have_mistrals_ids(weights: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(weights / "language")
    names = ["<unk>", "<s>", "</s>", "[INST]", "[/INST]", "[IMG]", "<pad>"]
    assert tokenizer.convert_tokens_to_ids(names) == list(range(7))
    assert (tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token) == ("<s>", "</s>", "<pad>")


@pytest.mark.parametrize("name", sorted(LANGUAGE_FAMILIES))
def test_a_language_model_of_any_family(name: str, raw: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    config = CONFIG.model_copy(update={"language": CONFIG.language.model_copy(update={"family": name})})
    folder = run_download_weights(context(tmp_path), config, raw).folder / "language"
    family, hf_config = LANGUAGE_FAMILIES[name], read_hf_config(folder)
    assert read_language(hf_config, 1).family == name
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert type(model).__name__ in family.architectures
    tokenizer = prepared(folder, tmp_path / "prepared", family.chat)
    assert control_id(tokenizer, family.chat.end_tokens[0]) == tokenizer.eos == model.config.eos_token_id
    assert control_id(tokenizer, family.chat.image_tokens[0]) == tokenizer.image
    text = "a small red circle"
    assert tokenizer.decode(tokenizer.encode(text)) == text


@pytest.mark.parametrize("name", sorted(VISION_FAMILIES))
def test_a_vision_tower_of_any_family(name: str, raw: Path, tmp_path: Path) -> None:
    vision = CONFIG.vision.model_copy(update={"family": name})
    folder = (
        run_download_weights(context(tmp_path), CONFIG.model_copy(update={"vision": vision}), raw).folder / "vision"
    )
    read = read_vision(read_hf_config(folder), -1)
    assert (read.family, read.num_layers, read.patches) == (name, 2, 4)
    VISION_FAMILIES[name].reference(folder)


@pytest.mark.parametrize("part", ["language", "vision"])
def test_a_family_that_there_is_not(part: str, raw: Path, tmp_path: Path) -> None:
    shape = getattr(CONFIG, part).model_copy(update={"family": "gpt2"})
    with pytest.raises(InputError, match="'gpt2' is no family"):
        run_download_weights(context(tmp_path), CONFIG.model_copy(update={part: shape}), raw)


def test_chat_tokenizer_takes_it(weights: Path, tmp_path: Path) -> None:
    tokenizer = prepared(weights / "language", tmp_path)
    for text in ("a small red circle", "Where?\n(A) above\n\nAnswer", "naïve 日本 \U0001f600"):
        assert tokenizer.decode(tokenizer.encode(text)) == text
    assert len(tokenizer.encode("circle")) == len(tokenizer.encode("a circle")) - 1 == 1
    assert tokenizer.encode("[INST]") != [control_id(tokenizer, "[INST]")]


@pytest.mark.parametrize(
    ("part", "field"), [("language", "hiden_size"), ("language", "vocab_size"), ("vision", "pach_size")]
)
def test_unknown_model_settings(part: str, field: str) -> None:
    with pytest.raises(ValidationError, match=field):
        WeightsConfig.model_validate({part: {field: 32}})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"vision": VISION | {"num_attention_heads": 5}}, r"weights\.vision does not describe a model"),
    ],
)
def test_model_settings_that_cannot_work(changes: dict[str, Any], message: str, raw: Path, tmp_path: Path) -> None:
    config = WeightsConfig.model_validate({"language": LANGUAGE, "vision": VISION} | changes)
    with pytest.raises(ConfigurationError, match=message):
        run_download_weights(context(tmp_path), config, raw)


def test_settings_survive_kfps_floats(raw: Path, weights: Path, tmp_path: Path) -> None:
    floats = json.loads(CONFIG.model_dump_json(), parse_int=float)
    assert content(
        run_download_weights(context(tmp_path), WeightsConfig.model_validate(floats), raw).folder
    ) == content(weights)


def test_random_weights_need_a_dataset(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="a raw dataset is needed"):
        run_download_weights(context(tmp_path), CONFIG)


@pytest.mark.parametrize("source", ["ftp://host/model", "scenes://", "file://model", "hf://"])
def test_what_is_no_source(source: str, raw: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"weights\.language_source is .*(expected|nothing stands)"):
        run_download_weights(context(tmp_path), WeightsConfig(language_source=source), raw)


def given_config(folder: Path) -> WeightsConfig:
    return WeightsConfig(language_source=(folder / "language").as_uri(), vision_source=(folder / "vision").as_uri())


@pytest.fixture
def given(weights: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "given"
    for name, data in content(weights).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def test_given_weights_are_linked(given: Path, weights: Path, tmp_path: Path) -> None:
    (given / "language" / "consolidated.safetensors").write_bytes(b"the same weights again, not needed")
    output = run_download_weights(context(tmp_path), given_config(given))
    assert content(output.folder) == content(weights)
    linked = output.folder / "vision" / "model.safetensors"
    assert linked.samefile(given / "vision" / "model.safetensors")
    assert output.manifest.facts["vision"]["files"] == 2


@pytest.mark.parametrize("name", ["chat_template.jinja", "chat_template.json"])
def test_a_chat_template_in_a_file_of_its_own_comes_with_the_language_model(
    name: str, given: Path, tmp_path: Path
) -> None:
    (given / "language" / name).write_text("{}")
    assert f"language/{name}" in content(run_download_weights(context(tmp_path / "out"), given_config(given)).folder)


@pytest.mark.parametrize("name", ["preprocessor_config.json", "processor_config.json"])
def test_a_towers_picture_settings_come_with_it(name: str, given: Path, tmp_path: Path) -> None:
    for part in ("language", "vision"):
        (given / part / name).write_text("{}")
    found = content(run_download_weights(context(tmp_path / "out"), given_config(given)).folder)
    assert f"vision/{name}" in found
    assert f"language/{name}" not in found


def test_random_language_model_beside_a_given_vision_tower(
    given: Path, raw: Path, weights: Path, tmp_path: Path
) -> None:
    config = CONFIG.model_copy(update={"vision_source": (given / "vision").as_uri()})
    found = run_download_weights(context(tmp_path), config, raw).folder
    assert content(found) == content(weights)
    assert (found / "vision" / "model.safetensors").samefile(given / "vision" / "model.safetensors")


def test_links_of_a_hub_cache_are_followed(given: Path, weights: Path, tmp_path: Path) -> None:
    path = given / "language" / "model.safetensors"
    blob = path.rename(tmp_path / "blob")
    path.symlink_to(blob)
    output = run_download_weights(context(tmp_path), given_config(given))
    assert content(output.folder) == content(weights)
    assert not (output.folder / "language" / "model.safetensors").is_symlink()


def test_changed_weights_are_noticed(given: Path, tmp_path: Path) -> None:
    config = given_config(given)
    first = run_download_weights(context(tmp_path), config)
    assert run_download_weights(context(tmp_path), config).reused
    os.utime(given / "vision" / "config.json", ns=(0, 0))
    assert run_download_weights(context(tmp_path), config).manifest.key != first.manifest.key


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        ("language/config.json", r"language/config\.json is missing"),
        ("language/tokenizer.json", r"language/tokenizer\.json is missing"),
        ("vision/config.json", r"vision/config\.json is missing"),
        ("vision/model.safetensors", r"vision has no model\*\.safetensors.*save_pretrained"),
    ],
)
def test_missing_files(missing: str, message: str, given: Path, tmp_path: Path) -> None:
    (given / missing).unlink()
    with pytest.raises(InputError, match=message):
        run_download_weights(context(tmp_path), given_config(given))


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ({"weight_map": {"a": "model-00002-of-00002.safetensors"}}, "lacks model-00002-of-00002"),
        ({}, "is not an index"),
    ],
)
def test_index(index: dict[str, Any], message: str, given: Path, tmp_path: Path) -> None:
    (given / "language" / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(InputError, match=message):
        run_download_weights(context(tmp_path), given_config(given))
