"""Command that scores any model: evaluate."""

import argparse
import warnings
from typing import TYPE_CHECKING

from pipelines.cli.arguments import RUN_HELP, CommandGroup, add_overrides, add_places, workspace_of

if TYPE_CHECKING:  # `vlm --help` does not wait for them
    from pathlib import Path

    from pipelines.asked_model import AskedModel
    from pipelines.config import EvaluationConfig
    from pipelines.examinations import Ground

_NO_TRACKING = "none"


def add_commands(group: CommandGroup) -> None:
    """Add this group's commands."""
    evaluate = group.add("evaluate", _evaluate, "score any model: a run's, a folder's, the hub's, or an endpoint's")
    evaluate.add_argument(
        "model",
        nargs="?",
        default="",
        metavar="MODEL",
        help=f"a model of the hub, ORG/NAME[@REVISION]; a folder that transformers loads, or of a finished stage; {RUN_HELP}",
    )
    evaluate.add_argument(
        "--task",
        metavar="NAME,...",
        default="",
        help="tasks, or evaluations of the data's run (default: all that its models were asked)",
    )
    evaluate.add_argument(
        "--data",
        metavar="RUN",
        default="",
        help="a run whose data and settings are used, or a raw dataset folder (default: the model's run, else the newest with data)",
    )
    evaluate.add_argument("--preset", default="", help="a preset whose data is downloaded, instead of --data")
    evaluate.add_argument("--stage", default="sft", help="the stage of a run whose model is meant (default: sft)")
    evaluate.add_argument("--name", default="", help="name of the run that holds the scores (default: the model's)")
    evaluate.add_argument("--limit", type=int, metavar="N", help="ask only the first N samples; the scores are PARTIAL")
    evaluate.add_argument(
        "--trust-remote-code", action="store_true", help="run the code that comes with the model; read it first"
    )
    served = evaluate.add_argument_group("a model behind an API of OpenAI's shape, instead of MODEL")
    served.add_argument("--endpoint", metavar="URL", default="", help="the API, as http://HOST:8000/v1")
    served.add_argument("--model", dest="served_name", metavar="NAME", default="", help="the model's name there")
    served.add_argument("--concurrency", type=int, metavar="N", help="requests under way at the same time (default: 8)")
    served.add_argument(
        "--key-variable",
        metavar="NAME",
        default="",
        help="environment variable that holds the API key (default: VLM_ENDPOINT_KEY)",
    )
    add_places(evaluate)
    add_overrides(evaluate, "evaluations.mmmu.generate.batch_size=64")


def _evaluate(options: argparse.Namespace) -> int:
    from rich.console import Console

    from pipelines.evaluation_run import run_evaluation
    from pipelines.examinations import choose_examinations
    from pipelines.next_steps import program
    from pipelines.summary import print_summary

    warnings.filterwarnings("ignore", module=r"(megatron|torch)\.")  # their own deprecations
    model = _model(options)
    ground = _ground(options, model)
    wanted = [name.strip() for name in options.task.split(",") if name.strip()]
    examinations = choose_examinations(ground, wanted, options.overrides, options.limit)
    calls = {
        name: value
        for name, value in (("concurrency", options.concurrency), ("key_variable", options.key_variable))
        if value
    }
    if calls:
        examinations = {name: _called(entry, calls) for name, entry in examinations.items()}
    workspace = workspace_of(options.workspace)
    run = run_evaluation(
        workspace, _tracking(options, workspace), options.name or model.name, model, ground, examinations
    )
    print_summary(run, Console())
    if ground.said.startswith("run "):
        print(f"compare  {program('vlm')} compare {ground.said.removeprefix('run ')} {run.run_id}")
    return 0


def _model(options: argparse.Namespace) -> "AskedModel":
    from pydantic import ValidationError

    from components.errors import ConfigurationError, first_problem
    from pipelines.asked_model import find_model, served_model
    from pipelines.cli.arguments import places_of

    if bool(options.model) == bool(options.endpoint):
        raise ConfigurationError("Name one model: MODEL, or --endpoint URL with --model NAME.")
    if bool(options.endpoint) != bool(options.served_name):
        raise ConfigurationError("--endpoint URL and --model NAME belong together.")
    try:
        if options.endpoint:
            return served_model(options.endpoint, options.served_name)
        return find_model(options.model, places_of(options), options.stage, options.trust_remote_code)
    except ValidationError as error:
        raise ConfigurationError(f"This model can't be asked: {first_problem(error)}") from None


def _ground(options: argparse.Namespace, model: "AskedModel") -> "Ground":
    from components.errors import ConfigurationError
    from pipelines.cli.arguments import places_of
    from pipelines.examinations import find_ground, ground_of_preset

    if options.preset and options.data:
        raise ConfigurationError("Name --data or --preset, not both.")
    if options.preset:
        return ground_of_preset(options.preset, [text for text in options.overrides if text.startswith("data.")])
    return find_ground(options.data, places_of(options), model.run)


def _called(entry: "EvaluationConfig", calls: dict[str, object]) -> "EvaluationConfig":
    from components.generate.config import CallsConfig

    changed = CallsConfig.model_validate({**entry.generate.calls.model_dump(), **calls})
    return entry.model_copy(update={"generate": entry.generate.model_copy(update={"calls": changed})})


def _tracking(options: argparse.Namespace, workspace: "Path") -> str:
    if options.tracking_uri == _NO_TRACKING:
        return ""
    return options.tracking_uri or f"sqlite:///{workspace}/mlflow.db"
