"""The list of settings: complete, true to the configuration, and readable."""

import copy
import json
import re
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from components.errors import ConfigurationError
from pipelines.cli import main
from pipelines.config import RunConfig
from pipelines.preset_files import load_preset, read_preset
from pipelines.setting_keys import setting_keys
from pipelines.settings import Setting, as_yaml, matching, run_settings, with_values
from pipelines.stages import training_stages

Captured = pytest.CaptureFixture[str]

SECTIONS = run_settings()
SETTINGS = [setting for section in SECTIONS for setting in section.settings]
UNITS = {"s", "bytes", "cores", "pixels", "tokens", "samples", "steps", "processes", "fraction", "points"}
UNITS |= {"rows", "characters", "layers", "patches"}
SUFFIXES = {"_s": "s", "_bytes": "bytes", "_tokens": "tokens", "_share": "fraction", "_fraction": "fraction"}
# Seeds, ratios, and counts whose name says what is counted.
PURE_NUMBERS = {
    *("seed", "ratio", "weight", "mean", "std", "init_std", "initializer_range", "rope_theta", "feature_layer"),
    *("tolerance", "pixel_tolerance", "significance", "temperature", "learning_rate", "min_learning_rate"),
    *("weight_decay", "adam_beta1", "adam_beta2", "adam_eps", "clip_grad", "divergence_factor"),
    *("max_aspect", "hidden_size", "intermediate_size", "ffn_hidden_size", "head_dim"),
    *("num_hidden_layers", "num_attention_heads", "num_key_value_heads"),
    *(
        "pictures",
        "held_out_pictures",
        "questions",
        "connections",
        "concurrency",
        "attempts",
        "min_shards",
        "parallel_tasks",
    ),
    *("nodes", "processes_per_node", "threads_per_process", "gpus", "retries", "tries", "backoff_limit", "partitions"),
    *("keep_checkpoints", "keep_best", "loader_workers", "bootstrap_samples", "constant_candidates"),
}


def keys(wanted: str) -> list[str]:
    return [setting.key for section in matching(SECTIONS, wanted) for setting in section.settings]


def setting(key: str) -> Setting:
    return next(setting for setting in SETTINGS if setting.key == key)


def test_every_key_of_the_configuration_is_listed_once() -> None:
    listed = [item.key for item in SETTINGS]
    assert len(set(listed)) == len(listed)
    sections = {section.key for section in SECTIONS}
    assert {key for key in setting_keys() if key not in sections} == {
        key for key in listed if "[]" not in key
    } - sections
    assert "evaluations.NAME.evaluate.gates[].minimum" in listed


def test_everything_has_a_meaning() -> None:
    """Its place is the class's docstring: `name (unit): meaning` under `Attributes:`."""
    meanings = [(item.key, item.meaning) for item in (*SECTIONS, *SETTINGS)]
    assert [key for key, meaning in meanings if not meaning.endswith(".")] == []


def test_numbers_have_a_unit_where_their_name_says_none() -> None:
    for item in SETTINGS:
        assert item.unit in UNITS | {""}, item.key
        for suffix, unit in SUFFIXES.items():
            if item.name.endswith(suffix):
                assert item.unit == unit, item.key
        if item.accepts.startswith(("integer", "number")):
            assert item.unit or item.name in PURE_NUMBERS, item.key


def without(tree: dict[str, Any], key: str) -> dict[str, Any]:
    tree = copy.deepcopy(tree)
    node: Any = tree
    *path, name = key.split(".")
    for part in path:
        node = node.get(part) or {}
    node.pop(name, None)
    return tree


def value_of(config: Any, key: str) -> Any:
    for part in key.split("."):
        config = config[part]
    return config


def test_defaults_are_what_a_preset_gets_that_does_not_name_them() -> None:
    tree = read_preset("laptop")
    absent = ("data.pretrain", "data.sft", "data.evaluation.")  # sections that this preset does not have
    for section in SECTIONS:
        if "NAME" in section.key or "[]" in section.key or section.key.startswith(absent):
            continue
        optional = [item for item in section.settings if not item.required]
        shortened = tree
        for item in optional:
            shortened = without(shortened, item.key)
        config = RunConfig.model_validate(shortened).model_dump(mode="json")
        assert {item.key: item.default for item in optional} == {
            item.key: value_of(config, item.key) for item in optional
        }
        for item in (item for item in section.settings if item.required):
            with pytest.raises(ValidationError, match="Field required"):
                RunConfig.model_validate(without(tree, item.key))


@pytest.mark.parametrize("preset", ["laptop", "mistral-clip-7b"])
def test_a_presets_values_can_be_set_as_they_are_shown(preset: str) -> None:
    config = load_preset(preset)
    shown = [item for section in with_values(SECTIONS, preset, config) for item in section.settings if item.values]
    overrides = [f"{item.key}={as_yaml(item.values[preset])}" for item in shown if "[" not in item.key]
    assert len(overrides) > 200
    assert load_preset(preset, overrides) == config


def test_entries_of_a_preset_stand_in_their_places() -> None:
    config = load_preset("mistral-clip-7b")
    items = [item for section in with_values(SECTIONS, "7b", config) for item in section.settings]
    values = {item.key: item.values.get("7b") for item in items if item.values}
    assert values["evaluations.mmmu.generate.task"] == config.evaluations["mmmu"].generate.task
    assert config.data.sft is not None
    assert values["data.sft.images[1].prefix"] == config.data.sft.images[1].prefix
    assert not any("NAME" in key or "[]" in key for key in values)


TEXT = st.text(st.characters(exclude_categories=("C", "Z"), include_characters=" "))
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXT,
    lambda inner: st.lists(inner) | st.dictionaries(TEXT, inner),
    max_leaves=8,
)


@given(JSON)
def test_shown_values_are_yaml_on_one_line(value: Any) -> None:
    text = as_yaml(value)
    assert yaml.safe_load(text) == value
    assert "\n" not in text


def test_a_key_finds_itself_and_what_is_within() -> None:
    for item in SETTINGS:
        found = keys(item.key)
        assert found[0] == item.key
        assert all(key.startswith((f"{item.key}.", f"{item.key}[")) for key in found[1:])


def test_ways_to_name_settings() -> None:
    assert len(keys("pretrain.recipe")) > 30
    assert all(key.startswith("pretrain.recipe.") for key in keys("pretrain.recipe"))
    assert keys("evaluations.any_name.generate.limit") == ["evaluations.NAME.generate.limit"]
    assert keys("evaluations.x.evaluate.gates[0].minimum") == ["evaluations.NAME.evaluate.gates[].minimum"]
    assert keys("iterations") == ["pretrain.recipe.iterations", "sft.recipe.iterations"]
    assert keys("*.launch.nodes") == ["pretrain.launch.nodes", "sft.launch.nodes"]


@pytest.mark.parametrize(
    ("wanted", "meant"), [("pretrain.recipe.iteratons", "pretrain.recipe.iterations"), ("registri", "registry")]
)
def test_wrong_key_gets_a_suggestion(wanted: str, meant: str) -> None:
    with pytest.raises(ConfigurationError, match=f"did you mean {meant}"):
        matching(SECTIONS, wanted)


def test_what_a_setting_accepts_is_said() -> None:
    assert setting("pretrain.recipe.precision").accepts == "fp32, bf16"
    assert setting("pretrain.recipe.warmup_fraction").accepts == "number, 0 or more, below 1"
    assert setting("cluster.job.deadline_s").accepts == "integer, 1 or more or null"
    assert setting("cluster.image_pull_secrets").accepts == "list of text"


@pytest.mark.parametrize(
    ("key", "stages"),
    [
        ("name", ()),
        ("tracking.uri", ()),
        ("cluster.cpu_image", ()),
        ("cluster.job.queue", ("pretrain", "sft")),
        ("data.evaluation.more.NAME.annotations", ("download/dataset",)),
        ("wds_conversion.sft.min_shards", ("wds_conversion/sft",)),
        ("pretrain.recipe.iterations", ("pretrain",)),
        ("evaluations.NAME.model", ("generate/NAME", "evaluate/NAME")),
        ("evaluations.NAME.evaluate.gates[].minimum", ("evaluate/NAME",)),
        ("registry.name", ("quality_gate",)),
    ],
)
def test_the_stages_that_use_a_setting_are_named(key: str, stages: tuple[str, ...]) -> None:
    """No stages: all of them."""
    assert setting(key).stages == stages


def test_every_stage_with_settings_uses_some() -> None:
    config = load_preset("mistral-clip-7b")
    listed = {
        stage for section in with_values(SECTIONS, "7b", config) for item in section.settings for stage in item.stages
    }
    assert {stage.name for stage in training_stages(config) if stage.settings} == listed


def test_the_list_is_whole_in_80_columns(capsys: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert main(["settings"]) == 0
    output = capsys.readouterr().out
    assert max(map(len, output.splitlines())) <= 80
    assert "…" not in output
    lines = output.splitlines()
    for item in SETTINGS:
        assert any(line.startswith(f"{item.name} ") for line in lines), item.key


def test_one_setting_is_shown_whole(capsys: Captured) -> None:
    arguments = ["settings", "pretrain.recipe.save_interval", "--preset", "laptop"]
    assert main([*arguments, "--set", "pretrain.recipe.save_interval=77"]) == 0
    output = capsys.readouterr().out.splitlines()
    assert output[:2] == ["pretrain.recipe.save_interval", "Steps between two checkpoints."]
    facts = dict(re.split(r"\s{2,}", line.strip()) for line in output[2:])
    expected = {"default": "required", "laptop": "77", "unit": "steps", "accepts": "integer, 1 or more"}
    assert facts == {**expected, "used by": "pretrain"}


def test_programs_get_json(capsys: Captured) -> None:
    assert main(["settings", "cluster.job", "--json"]) == 0
    items = json.loads(capsys.readouterr().out)
    assert {item["key"]: item["default"] for item in items}["cluster.job.grace_s"] == 120
    assert all(item["meaning"] for item in items)


def test_unknown_key_is_an_error(capsys: Captured) -> None:
    assert main(["settings", "pretrain.recipe.iteratons"]) == 1
    assert "did you mean pretrain.recipe.iterations" in capsys.readouterr().err
