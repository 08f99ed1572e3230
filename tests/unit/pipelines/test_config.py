"""The run configuration: presets, overrides, and what is said about mistakes."""

import contextlib
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from components.errors import ConfigurationError
from pipelines.config import RunConfig
from pipelines.opening import settle, stage_settings, stored_settings
from pipelines.parameters import UI_PARAMETERS
from pipelines.preset_files import apply_overrides, export_settings, load_preset, preset_names, read_preset, validate
from pipelines.setting_keys import key_exists, setting_keys

LAPTOP = load_preset("laptop")
KEYS = sorted(setting_keys())
FREE_MAPPINGS = {
    "evaluations",
    "models",
    "models.NAME.endpoint.body",
    "data.evaluation.more",
    "data.evaluation.benchmarks",
    "data.evaluation.benchmark_files",
    "cluster.node_selector",
    "energon_split.pretrain.subflavors",
    "energon_split.sft.subflavors",
    "cluster.affinity",
    "cluster.environment",
    "cluster.job.annotations",
    "cluster.job.environment",
    "cluster.job.resources",
}


@pytest.mark.parametrize("preset", preset_names())
def test_preset_survives_the_way_through_kfp(preset: str) -> None:
    config = load_preset(preset)
    assert validate(floats(stored_settings(config)), "test") == config


def floats(value: Any) -> Any:
    """What KFP makes of a STRUCT: every number a float."""
    if isinstance(value, dict):
        return {key: floats(item) for key, item in value.items()}
    if isinstance(value, list):
        return [floats(item) for item in value]
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value


def test_shipped_presets_are_there() -> None:
    assert set(preset_names()) == {
        *("laptop", "mistral-clip-7b", "h200-single"),
        *("llama3.1-siglip-8b", "qwen3-siglip2-4b", "qwen2.5-siglip-0.5b"),
    }


def test_reference_preset_has_the_references_figures() -> None:
    config = load_preset("mistral-clip-7b")
    pretrain, sft = config.pretrain.recipe, config.sft.recipe
    assert (pretrain.iterations, pretrain.global_batch_size) == (20000, 256)
    assert (pretrain.learning_rate, pretrain.min_learning_rate, pretrain.weight_decay) == (1.5e-4, 1e-5, 0.01)
    assert (sft.iterations, sft.global_batch_size, sft.learning_rate, sft.min_learning_rate) == (20000, 128, 1e-6, 1e-7)
    assert (pretrain.train_language, pretrain.train_vision, sft.train_language, sft.train_vision) == (
        False,
        False,
        True,
        False,
    )
    assert (pretrain.clip_grad, sft.clip_grad, sft.weight_decay) == (1.0, 0.5, 0.1)
    assert (config.combine.image.mean, config.combine.image.std) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    projector = config.combine.projector
    assert (projector.depth, projector.ffn_hidden_size, projector.bias) == (2, 14336, False)
    assert (projector.init, projector.init_std) == ("scaled", 0.014)


def test_preset_of_one_gpu_has_the_references_recipe() -> None:
    config, reference = load_preset("h200-single"), load_preset("mistral-clip-7b")
    assert (config.pretrain.recipe, config.sft.recipe) == (reference.pretrain.recipe, reference.sft.recipe)
    assert (config.weights, config.combine, config.data) == (reference.weights, reference.combine, reference.data)
    for training in (config.pretrain, config.sft):
        assert (training.launch.world_size, training.launch.tensor_parallel) == (1, 1)
    assert config.sft.memory.recompute == "full"


def test_preset_that_extends_another(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("{extends: laptop, name: mine, pretrain: {recipe: {iterations: 7}}}")
    expected = load_preset("laptop", ["name=mine", "pretrain.recipe.iterations=7"])
    assert load_preset(str(path)) == expected


@pytest.mark.parametrize(
    ("extended", "message"),
    [("{path}", "extend each other"), ("laptp", "did you mean laptop"), ("[laptop]", "must name one preset")],
)
def test_preset_that_extends_what_it_cant(tmp_path: Path, extended: str, message: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(f"extends: {extended.format(path=path)}")
    with pytest.raises(ConfigurationError, match=message):
        load_preset(str(path))


def test_preset_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump({**read_preset("laptop"), "name": "mine"}))
    assert load_preset(str(path)).name == "mine"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "pretrain.recipe.iteration=5",
            "no setting 'pretrain.recipe.iteration'; did you mean pretrain.recipe.iterations?",
        ),
        ("sft.iterations=5", "did you mean sft.recipe.iterations?"),
        ("iteratoins=3", "did you mean pretrain.recipe.iterations or sft.recipe.iterations?"),
        ("zzzzzz=3", "There is no setting 'zzzzzz'."),
        ("pretrain.recipe.iterations=many", "pretrain.recipe.iterations: Input should be a valid integer"),
        (
            "pretrain.recipe.iterations=0",
            "pretrain.recipe.iterations: Input should be greater than or equal to 1 (given: 0)",
        ),
        ("pretrain.recipe.prompt_format=chat", "pretrain.recipe.prompt_format: Input should be 'plain' or 'instruct'"),
        ("pretrain.recipe", "must have the form key=value"),
        ("=3", "must have the form key=value"),
        ("name=[", "Can't read the value of name as YAML"),
        ("name=", "name: Input should be a valid string"),
        ("pretrain={a: 1}", "pretrain.recipe: is missing"),
        ("pretrain={recipe: {}, lanch: {}}", "pretrain.lanch: there is no such setting; did you mean pretrain.launch?"),
        ("pretrain.launch.tensor_parallel=3", "must be a multiple of tensor_parallel"),
        ("cluster.gpus=1", "cluster.gpus (1) is less than pretrain.launch.processes_per_node"),
        ("pretrain.launch.backend=pytorchjob", "needs a workspace that all its pods share: set cluster.pvc"),
        ("pretrain.launch.nodes=2", "pretrain: launch.nodes is 2, but the local backend has one machine"),
    ],
)
def test_wrong_override_is_explained(override: str, message: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        load_preset("laptop", [override])
    assert message in str(caught.value)


@pytest.mark.parametrize("setting", ["combine.projector.depth=3", "combine.image.pixel_shuffle=2"])
def test_what_only_code_can_export_is_refused_without_it_before_a_run_starts(setting: str) -> None:
    assert load_preset("laptop", [setting, "export.custom_code=true"]).export.custom_code
    with pytest.raises(ConfigurationError, match="Set export.custom_code=true"):
        load_preset("laptop", [setting])


def test_a_projector_that_is_too_wide_for_a_stock_model_is_refused_before_a_run_starts(tmp_path: Path) -> None:
    wide = "combine.projector.ffn_hidden_size=256"
    with pytest.raises(ConfigurationError, match=r"as wide as the language model \(128\).* is 256 wide"):
        load_preset("laptop", [wide])
    assert load_preset("laptop", [wide, "export.custom_code=true"])
    assert load_preset("laptop", ["combine.projector.ffn_hidden_size=128"])
    with pytest.raises(ConfigurationError, match=r"as wide as the language model \(4096\).* is 14336 wide"):
        load_preset("mistral-clip-7b", ["export.custom_code=false"])
    (tmp_path / "config.json").write_text('{"model_type": "mistral", "hidden_size": 2048}')
    mine = ["export.custom_code=false", f"weights.language_source=file://{tmp_path}"]
    with pytest.raises(ConfigurationError, match=r"as wide as the language model \(2048\).* is 14336 wide"):
        load_preset("mistral-clip-7b", mine)
    # Of weights that are elsewhere combine says it, before the training.
    assert load_preset("mistral-clip-7b", ["export.custom_code=false", "weights.language_source=s3://mine/model"])


SIGLIP = [
    "weights.vision_source=hf://google/siglip-so400m-patch14-384",
    "export.custom_code=true",
]


def test_squares_that_do_not_fit_a_random_tower_are_refused_before_a_run_starts() -> None:
    message = "pixel_shuffle 3 does not divide the 4 x 4 patches of size 64 and patch 16: set it to one of 1, 2, 4, or"
    with pytest.raises(ConfigurationError, match=message):
        load_preset("laptop", ["combine.image.pixel_shuffle=3", "export.custom_code=true"])


def test_squares_that_do_not_fit_a_published_tower_are_refused_before_a_run_starts() -> None:
    with pytest.raises(ConfigurationError) as caught:
        load_preset("mistral-clip-7b", [*SIGLIP, "combine.image.pixel_shuffle=2"])
    message = (
        "pixel_shuffle 2 does not divide the 27 x 27 patches of size 384 and patch 14: set it to one of 1, 3, 9, 27, or"
    )
    assert f"combine.image: {message}" in str(caught.value)
    assert load_preset("mistral-clip-7b", [*SIGLIP, "combine.image.pixel_shuffle=3"])
    unknown = ["weights.vision_source=hf://me/my-tower", "export.custom_code=true"]
    assert load_preset("mistral-clip-7b", [*unknown, "combine.image.pixel_shuffle=2"])


TRAINJOBS = ["pretrain.launch.backend=trainjob", "sft.launch.backend=trainjob"]


def test_what_a_backend_refuses_is_refused_before_a_run_starts() -> None:
    with pytest.raises(
        ConfigurationError, match=r"A TrainJob has no cluster\.job\.ttl_s.*--set cluster\.job\.ttl_s=none"
    ):
        load_preset("mistral-clip-7b", TRAINJOBS)
    with pytest.raises(
        ConfigurationError, match=r"HF_TOKEN is set by cluster\.secrets and by cluster\.job\.environment"
    ):
        load_preset("mistral-clip-7b", ["cluster.job.environment={HF_TOKEN: x}"])


@pytest.mark.parametrize("none", ["none", "None", "null"])
def test_a_setting_is_switched_off_by_none_or_null(none: str) -> None:
    config = load_preset("mistral-clip-7b", [*TRAINJOBS, f"cluster.job.ttl_s={none}", f"cluster.job.stall_s={none}"])
    assert (config.cluster.job.ttl_s, config.cluster.job.stall_s) == (None, None)


def test_evaluation_asks_and_scores_one_task() -> None:
    asked = load_preset("laptop", ["evaluations={one: {model: sft, generate: {task: captioning}, evaluate: {}}}"])
    assert asked.evaluations["one"].evaluate.task == "captioning"
    with pytest.raises(
        ConfigurationError, match=r"generate.task \(captioning\) and evaluate.task \(captioning_instruct\) must be the"
    ):
        load_preset("laptop", ["evaluations.captioning.evaluate.task=captioning_instruct"])
    with pytest.raises(ConfigurationError, match="There is no task 'other'"):
        load_preset("laptop", ["evaluations.captioning.generate.task=other"])


def test_off_in_yaml_is_a_word_here() -> None:
    key = "wds_conversion.pretrain.check_images"
    assert load_preset("laptop", [f"{key}=off"]).wds_conversion.pretrain.check_images == "off"
    with pytest.raises(ConfigurationError, match=f"{key}: Input should be 'decode', 'header' or 'off'"):
        load_preset("laptop", [f"{key}=some"])


def test_unknown_preset_lists_those_there_are() -> None:
    with pytest.raises(
        ConfigurationError, match=r"no preset 'laptp'; did you mean laptop\? Presets: .*mistral-clip-7b"
    ):
        load_preset("laptp")


@pytest.mark.parametrize(("text", "message"), [("- a", "must be a YAML mapping"), ("a: [", "as YAML")])
def test_preset_that_is_no_mapping(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "p.yaml"
    path.write_text(text)
    with pytest.raises(ConfigurationError, match=message):
        load_preset(str(path))


@given(
    st.integers(1, 10**9),
    st.floats(1e-9, 1.0),
    st.booleans(),
    st.text(st.characters(codec="ascii", exclude_categories=["C"])),
)
def test_overrides_mean_what_they_look_like(steps: int, rate: float, vision: bool, name: str) -> None:
    tree = apply_overrides(
        {"name": "x", "pretrain": {"recipe": {"seed": 1}}},
        [
            f"pretrain.recipe.iterations={steps}",
            f"pretrain.recipe.learning_rate={rate}",
            f"pretrain.recipe.train_vision={str(vision).lower()}",
            f"name={yaml.safe_dump(name)}",
        ],
    )
    recipe = tree["pretrain"]["recipe"]
    assert recipe["iterations"] == steps
    assert float(recipe["learning_rate"]) == rate
    assert recipe["train_vision"] is vision
    assert tree["name"] == name
    assert recipe["seed"] == 1


@given(st.sampled_from(KEYS))
def test_every_setting_can_be_named(key: str) -> None:
    assert key_exists(key)
    assert not key_exists(f"{key}.nonsense") or key in FREE_MAPPINGS


@settings(deadline=None)
@given(st.text(max_size=30), st.text(max_size=10))
def test_no_override_crashes(key: str, value: str) -> None:
    with contextlib.suppress(ConfigurationError):
        load_preset("laptop", [f"{key}={value}"])


def test_exponents_without_a_dot_are_numbers() -> None:
    assert (
        load_preset(
            "laptop", ["pretrain.recipe.learning_rate=2e-4", "pretrain.recipe.min_learning_rate=0"]
        ).pretrain.recipe.learning_rate
        == 2e-4
    )


def test_overrides_do_not_change_their_source() -> None:
    tree = {"pretrain": {"recipe": {"seed": 1}}}
    apply_overrides(tree, ["pretrain.recipe.seed=2"])
    assert tree == {"pretrain": {"recipe": {"seed": 1}}}


def defaults(config: RunConfig) -> dict[str, Any]:
    return {parameter.name: parameter.default(config) for parameter in UI_PARAMETERS}


def test_parameters_left_alone_change_nothing() -> None:
    # Settings behind one parameter may differ in the preset.
    preset = load_preset(
        "laptop", ["evaluations.captioning.generate.tensor_parallel=1", "pretrain.launch.tensor_parallel=2"]
    )
    assert settle(stored_settings(preset), defaults(preset)) == preset


def test_parameters_reach_every_setting_behind_them() -> None:
    config = settle(stored_settings(LAPTOP), {**defaults(LAPTOP), "tensor_parallel": 1, "pretrain_iterations": 7})
    assert (config.pretrain.launch.tensor_parallel, config.sft.launch.tensor_parallel) == (1, 1)
    assert [evaluation.generate.tensor_parallel for evaluation in config.evaluations.values()] == [1, 1]
    assert config.pretrain.recipe.iterations == 7


def test_overrides_have_the_last_word() -> None:
    parameters = {**defaults(LAPTOP), "sft_iterations": 7, "overrides": ["sft.recipe.iterations=9"]}
    assert settle(stored_settings(LAPTOP), parameters).sft.recipe.iterations == 9


@pytest.mark.parametrize(
    "overrides",
    [
        ["evaluations.captioning.generate.partitions=17"],
        ["evaluations.captioning.model=sft"],
        ["evaluations.other={model: sft, generate: {task: captioning}, evaluate: {}}"],
        ["wds_conversion.sft.parallel_tasks=2"],
        [{"a": 1}],
    ],
)
def test_what_a_compiled_pipeline_cant_change(overrides: list[Any]) -> None:
    with pytest.raises(ConfigurationError, match=r"Compile again|must be a list of texts"):
        settle(stored_settings(LAPTOP), {**defaults(LAPTOP), "overrides": overrides})


CLUSTER = load_preset("mistral-clip-7b")


def test_every_generating_process_needs_its_gpu() -> None:
    with pytest.raises(ConfigurationError, match=r"evaluations\.captioning\.generate \(8\)"):
        load_preset("mistral-clip-7b", ["cluster.gpus=4"])


@pytest.mark.parametrize(
    ("parameters", "overrides", "message"),
    [
        ({}, ["pretrain.launch.backend=local"], "pretrain.launch.backend decides the tasks"),
        ({}, ["cluster.gpu_image=other"], "cluster.gpu_image is part of the compiled pipeline"),
        ({}, ["workspace=/other"], "workspace is a parameter of the pipeline"),
        ({"workspace": "/other"}, [], "mounts the volume vlm-workspace at /workspace. Compile again"),
        ({"tensor_parallel": 3}, [], "must be a multiple of tensor_parallel"),
    ],
)
def test_what_is_compiled_stays(parameters: dict[str, Any], overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        settle(stored_settings(CLUSTER), {**defaults(CLUSTER), **parameters, "overrides": overrides})
    assert message in str(caught.value)


def test_width_and_queue_can_change_in_a_run() -> None:
    overrides = ["cluster.job.deadline_s=86400"]
    parameters = {**defaults(CLUSTER), "nodes": 8, "queue": "gpus", "overrides": overrides}
    config = settle(stored_settings(CLUSTER), parameters)
    assert (config.pretrain.launch.world_size, config.sft.launch.data_parallel) == (64, 16)
    assert (config.cluster.job.queue, config.cluster.job.deadline_s) == ("gpus", 86400)


def test_every_stage_use_gets_its_settings() -> None:
    settings = stage_settings(LAPTOP)
    assert settings["download/dataset"] == stored_settings(LAPTOP.data)
    assert settings["wds_conversion/sft"] == stored_settings(LAPTOP.wds_conversion.sft)
    assert settings["export"] == stored_settings(LAPTOP.export)
    assert settings["generate/captioning"] == stored_settings(LAPTOP.evaluations["captioning"].generate)
    assert settings["evaluate/captioning"] == stored_settings(LAPTOP.evaluations["captioning"].evaluate)


def test_export_takes_the_settings_of_its_run_and_overrides_have_the_last_word() -> None:
    run = {"export": {"custom_code": True}}
    assert not export_settings([]).custom_code
    assert export_settings([], run).custom_code
    assert not export_settings(["export.custom_code=false"], run).custom_code
