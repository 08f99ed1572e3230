"""The compiled pipeline, against golden files.

The golden files hold the compiled packages without the components' code. After an intended change write them again:

    UPDATE_GOLDEN=1 .venv/bin/python -m pytest tests/unit/pipelines/test_compile.py
"""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipelines.compile import compile_pipeline
from pipelines.parameters import UI_PARAMETERS
from pipelines.preset_files import load_preset, preset_names
from pipelines.stages import Place, training_stages
from pipelines.vlm_training import STAGES_LABEL
from tests.support.packages import read_package
from tests.support.paths import ROOT

GOLDEN = Path(__file__).parent / "golden"
PRESETS = tuple(preset_names())
GPU_TASKS = {"exec-generate", "exec-generate-2", "exec-generate-3"}
LAUNCHERS = {"exec-pretrain", "exec-sft"}


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict[str, Any]]]:
    folder = tmp_path_factory.mktemp("packages")
    packages = {}
    for preset in PRESETS:
        compile_pipeline(load_preset(preset), folder / f"{preset}.yaml")
        packages[preset] = read_package(folder / f"{preset}.yaml")
    return packages


def tasks(package: dict[str, Any]) -> dict[str, Any]:
    """Every task of the root and of the loops."""
    found = dict(package["root"]["dag"]["tasks"])
    for component in package["components"].values():
        found.update(component.get("dag", {}).get("tasks", {}))
    return found


def without_code(documents: list[dict[str, Any]]) -> str:
    package = {**documents[0]}
    package.pop("sdkVersion")
    executors = package["deploymentSpec"]["executors"]
    package["deploymentSpec"] = {
        "executors": {
            name: {
                "container": {
                    key: value for key, value in executor["container"].items() if key not in ("args", "command")
                }
            }
            for name, executor in executors.items()
        }
    }
    return yaml.dump_all([package, *documents[1:]], Dumper=yaml.CSafeDumper, sort_keys=True)


@pytest.mark.parametrize("preset", PRESETS)
def test_compiled_package_is_the_golden_one(preset: str, packages: dict[str, list[dict[str, Any]]]) -> None:
    compiled = without_code(packages[preset])
    golden = GOLDEN / f"{preset}.yaml"
    if os.environ.get("UPDATE_GOLDEN"):
        golden.write_text(compiled)
    assert compiled == golden.read_text(), "see this file's docstring"


@pytest.mark.parametrize("preset", PRESETS)
def test_kfp_never_caches(preset: str, packages: dict[str, list[dict[str, Any]]]) -> None:
    for name, task in tasks(packages[preset][0]).items():
        assert name.startswith(("for-loop", "exit-handler")) or not task["cachingOptions"].get("enableCache"), name


def by_label(package: dict[str, Any]) -> dict[str, tuple[str, dict[str, Any]]]:
    """Every task that runs code, by its name in the UI; its name in the package is not unique."""
    dags = [package["root"]["dag"], *(item["dag"] for item in package["components"].values() if "dag" in item)]
    found = [(name, task) for dag in dags for name, task in dag["tasks"].items()]
    coded = [pair for pair in found if "executorLabel" in package["components"][pair[1]["componentRef"]["name"]]]
    labelled = {task["taskInfo"]["name"]: (name, task) for name, task in coded}
    assert len(labelled) == len(coded)
    return labelled


@pytest.mark.parametrize("preset", PRESETS)
def test_every_stage_of_the_table_is_a_task(preset: str, packages: dict[str, list[dict[str, Any]]]) -> None:
    rows, found = training_stages(load_preset(preset)), by_label(packages[preset][0])
    assert set(found) == {row.label for row in rows}
    for row in rows:
        name, task = found[row.label]
        assert re.fullmatch(rf"{row.load().name}(-\d+)?", name)
        if row.settings:
            assert task["inputs"]["parameters"]["stage"]["runtimeValue"]["constant"] == row.name
        assert ("retryPolicy" in task) == (row.place in (Place.GPU, Place.TRAINING) and preset != "laptop"), row.name


@pytest.mark.parametrize("preset", PRESETS)
def test_tasks_follow_each_other_as_the_table_says(preset: str, packages: dict[str, list[dict[str, Any]]]) -> None:
    rows, found = training_stages(load_preset(preset)), by_label(packages[preset][0])
    task_of = {row.name: found[row.label][0] for row in rows}
    # What a model is asked is a pipeline of its own in the package: its two stages are one task of the DAG.
    for name in load_preset(preset).evaluations:
        task_of |= dict.fromkeys((f"generate/{name}", f"evaluate/{name}"), name.replace("_", "-"))
    dag = packages[preset][0]["components"]["comp-exit-handler-1"]["dag"]["tasks"]
    assert set(dag) == {*task_of.values()} - {"open-run", "close-run"}
    for name, task in dag.items():
        stages = [row for row in rows if task_of[row.name] == name]
        follows = {task_of[other] for row in stages for other in row.follows} - {name}
        assert set(task.get("dependentTasks", ())) == follows, name


def test_stages_hang_together(packages: dict[str, list[dict[str, Any]]]) -> None:
    found = tasks(packages["laptop"][0])
    needs = {name: set(task.get("dependentTasks", ())) for name, task in found.items()}
    assert {"wds-conversion", "wds-conversion-2", "download-weights"} <= {
        name for name in needs if "download-dataset" in needs[name]
    }
    assert {"weight-conversion", "weight-conversion-2"} <= needs["combine"]
    assert {"combine", "energon-split"} <= needs["pretrain"]
    assert {"pretrain", "energon-split-2"} <= needs["sft"]
    assert "pretrain" in needs["captioning"]
    assert "sft" in needs["multiple-choice"]
    assert {"captioning", "multiple-choice"} <= needs["report"]
    assert {"sft", "multiple-choice"} <= needs["export"]
    assert {"report", "export"} <= needs["quality-gate"]


def test_any_number_of_evaluations_reach_report_and_gate(tmp_path: Path) -> None:
    overrides = [
        "evaluations.described={model: sft, generate: {task: captioning_instruct, partitions: 3}, evaluate: {}}",
        "evaluations.again={model: sft, generate: {task: captioning}, evaluate: {}}",
    ]
    compile_pipeline(load_preset("laptop", overrides), tmp_path / "p.yaml")
    found = tasks(read_package(tmp_path / "p.yaml")[0])
    needs = {name: set(task.get("dependentTasks", ())) for name, task in found.items()}
    assert {"described", "again", "multiple-choice", "captioning"} <= needs["report"] & needs["quality-gate"]
    assert needs["export"] == {"sft", "described", "again", "multiple-choice"}
    assert all("sft" in needs[name] for name in ("described", "again", "multiple-choice"))


def with_gpu(package: dict[str, Any]) -> set[str]:
    executors = package["deploymentSpec"]["executors"]
    return {name for name, executor in executors.items() if "accelerator" in executor["container"].get("resources", {})}


def test_gpu_tasks_get_their_resources(packages: dict[str, list[dict[str, Any]]]) -> None:
    package, platform = packages["mistral-clip-7b"]
    executors = package["deploymentSpec"]["executors"]
    assert with_gpu(package) == GPU_TASKS
    kubernetes = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    assert set(kubernetes) == set(executors), "every task has the workspace volume"
    for name in GPU_TASKS:
        assert executors[name]["container"]["image"].startswith("vlm-pipelines/gpu:")
        assert kubernetes[name]["tolerations"][0]["key"] == "nvidia.com/gpu"
        assert kubernetes[name]["emptyDirMounts"][0]["mountPath"] == "/dev/shm"


def test_launching_tasks_leave_the_gpus_to_their_jobs(packages: dict[str, list[dict[str, Any]]]) -> None:
    package, platform = packages["mistral-clip-7b"]
    kubernetes = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    for name in LAUNCHERS:
        container = package["deploymentSpec"]["executors"][name]["container"]
        assert container["image"].startswith("vlm-pipelines/cpu:")
        assert container["resources"]["resourceMemoryRequest"] == "4Gi"
        assert "tolerations" not in kubernetes[name]
    for name in ("pretrain", "sft"):
        assert tasks(package)[name]["retryPolicy"]["maxRetryCount"] == 2


def test_local_backend_trains_in_the_tasks_own_pod(tmp_path: Path) -> None:
    overrides = ["pretrain.launch.backend=local", "sft.launch.backend=local"]
    compile_pipeline(load_preset("mistral-clip-7b", overrides), tmp_path / "p.yaml")
    package = read_package(tmp_path / "p.yaml")[0]
    assert with_gpu(package) == GPU_TASKS | LAUNCHERS


def test_variables_secrets_and_images_reach_every_pod(tmp_path: Path) -> None:
    overrides = [
        "cluster.image_pull_secrets=[registry]",
        "cluster.image_pull_policy=Always",
        "cluster.environment={AWS_ENDPOINT_URL: 'http://vlm-s3:8333', AWS_DEFAULT_REGION: us-east-1}",
        "cluster.node_selector={pool: gpus}",
        "cluster.affinity={nodeAffinity: {requiredDuringSchedulingIgnoredDuringExecution: {nodeSelectorTerms: "
        "[{matchExpressions: [{key: zone, operator: In, values: [a]}]}]}}}",
    ]
    compile_pipeline(load_preset("mistral-clip-7b", overrides), tmp_path / "p.yaml")
    package, platform = read_package(tmp_path / "p.yaml")
    for executor in package["deploymentSpec"]["executors"].values():
        plain = {variable["name"]: variable["value"] for variable in executor["container"]["env"]}
        assert plain["AWS_ENDPOINT_URL"] == "http://vlm-s3:8333"
        assert plain["AWS_DEFAULT_REGION"] == "us-east-1"
    executors = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    for executor in executors.values():
        variables = {pair["envVar"] for entry in executor["secretAsEnv"] for pair in entry["keyToEnv"]}
        assert variables == {"HF_TOKEN", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"}
        assert executor["imagePullPolicy"] == "Always"
        assert "registry" in yaml.safe_dump(executor["imagePullSecret"])
    for name in GPU_TASKS:
        assert executors[name]["nodeSelector"]["labels"] == {"pool": "gpus"}
        assert executors[name]["nodeAffinity"]


@pytest.mark.parametrize("preset", PRESETS)
def test_run_is_closed_however_it_ends(preset: str, packages: dict[str, list[dict[str, Any]]]) -> None:
    root = packages[preset][0]["root"]["dag"]["tasks"]
    assert set(root) == {"open-run", "exit-handler-1", "close-run"}
    assert root["close-run"]["triggerPolicy"]["strategy"] == "ALL_UPSTREAM_TASKS_COMPLETED"
    assert root["close-run"]["dependentTasks"] == ["exit-handler-1"]
    # A run whose image or volume is missing can't be opened; then there is nothing to close, and no pod waits to do it.
    assert root["exit-handler-1"]["dependentTasks"] == ["open-run"]


@pytest.mark.parametrize("preset", ["mistral-clip-7b", "h200-single"])
def test_closing_can_not_hang(preset: str, packages: dict[str, list[dict[str, Any]]]) -> None:
    package, platform = packages[preset]
    executors = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    assert {name for name, executor in executors.items() if "activeDeadlineSeconds" in executor} == {"exec-close-run"}
    assert 60 <= int(executors["exec-close-run"]["activeDeadlineSeconds"]) <= 1800
    for name in ("exec-open-run", "exec-close-run"):
        resources = package["deploymentSpec"]["executors"][name]["container"]["resources"]
        assert resources["resourceMemoryRequest"] == load_preset(preset).cluster.launcher_memory


def arrows(dag: dict[str, Any]) -> set[tuple[str, str]]:
    """The arrows from task to task that KFP's UI draws: for parameters, and for what a task waits for."""
    found = {(other, name) for name, task in dag["tasks"].items() for other in task.get("dependentTasks", ())}
    for name, task in dag["tasks"].items():
        for value in task.get("inputs", {}).get("parameters", {}).values():
            if "taskOutputParameter" in value:
                found.add((value["taskOutputParameter"]["producerTask"], name))
    return found


@pytest.mark.parametrize("preset", PRESETS)
def test_the_graph_is_not_full_of_the_openings_arrows(preset: str, packages: dict[str, list[dict[str, Any]]]) -> None:
    package = packages[preset][0]
    root = package["root"]["dag"]
    assert arrows(root) == {("open-run", "exit-handler-1"), ("exit-handler-1", "close-run")}
    stages = package["components"]["comp-exit-handler-1"]["dag"]
    assert not [arrow for arrow in arrows(stages) if "open-run" in arrow]
    assert root["tasks"]["exit-handler-1"]["taskInfo"]["name"] == STAGES_LABEL


def test_every_task_of_the_graph_has_a_short_name_of_its_own(packages: dict[str, list[dict[str, Any]]]) -> None:
    stages = packages["laptop"][0]["components"]["comp-exit-handler-1"]["dag"]["tasks"]
    assert {task["taskInfo"]["name"] for task in stages.values()} == {
        "download: dataset",
        "download: weights",
        "wds_conversion: pretrain",
        "wds_conversion: sft",
        "energon_split: pretrain",
        "energon_split: sft",
        "weight_conversion: language",
        "weight_conversion: vision",
        "combine",
        "pretrain",
        "captioning: generate, evaluate",
        "sft",
        "multiple_choice: generate, evaluate",
        "report",
        "export",
        "quality_gate",
    }


def test_a_conversion_in_several_tasks_is_one_in_the_graph(tmp_path: Path) -> None:
    compile_pipeline(load_preset("laptop", ["wds_conversion.pretrain.parallel_tasks=2"]), tmp_path / "p.yaml")
    package = read_package(tmp_path / "p.yaml")[0]
    stages = package["components"]["comp-exit-handler-1"]["dag"]["tasks"]
    assert stages["wds-conversion-pretrain"]["taskInfo"]["name"] == "wds_conversion: pretrain"


def test_every_parameter_is_documented(packages: dict[str, list[dict[str, Any]]]) -> None:
    parameters = packages["laptop"][0]["root"]["inputDefinitions"]["parameters"]
    assert {parameter.name: parameter.description for parameter in UI_PARAMETERS} == {
        name: parameter["description"] for name, parameter in parameters.items()
    }


def test_laptop_package_asks_for_no_cluster(packages: dict[str, list[dict[str, Any]]]) -> None:
    assert len(packages["laptop"]) == 1
    for executor in packages["laptop"][0]["deploymentSpec"]["executors"].values():
        assert "resources" not in executor["container"]


def test_parameters_default_to_the_preset(packages: dict[str, list[dict[str, Any]]]) -> None:
    parameters = packages["mistral-clip-7b"][0]["root"]["inputDefinitions"]["parameters"]
    assert parameters["pretrain_iterations"]["defaultValue"] == 20000
    assert parameters["sft_learning_rate"]["defaultValue"] == 1e-6
    assert parameters["workspace"]["defaultValue"] == "/workspace"
    assert parameters["overrides"]["defaultValue"] == []


def test_partitions_fan_out(tmp_path: Path) -> None:
    compile_pipeline(load_preset("laptop", ["evaluations.captioning.generate.partitions=3"]), tmp_path / "p.yaml")
    assert "[0, 1, 2]" in (tmp_path / "p.yaml").read_text()


def test_same_configuration_same_package(tmp_path: Path) -> None:
    for name in ("a.yaml", "b.yaml"):
        compile_pipeline(load_preset("laptop"), tmp_path / name)
    assert (tmp_path / "a.yaml").read_bytes() == (tmp_path / "b.yaml").read_bytes()


def test_kfps_own_compiler_takes_the_preset_from_the_environment(tmp_path: Path) -> None:
    output = tmp_path / "package.yaml"
    subprocess.run(
        [
            str(Path(sys.executable).with_name("kfp")),
            "dsl",
            "compile",
            "--py",
            "pipelines/vlm_training.py",
            "--output",
            str(output),
        ],
        cwd=ROOT,
        env={**os.environ, "VLM_PRESET": "mistral-clip-7b", "PYTHONPATH": str(ROOT)},
        check=True,
        capture_output=True,
    )
    assert "defaultValue: mistral-clip-7b" in output.read_text()
