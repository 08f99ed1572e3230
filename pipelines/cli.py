"""`vlm`: compile the pipeline, run it here or on a cluster, see how it goes, read its report, export a model."""

import argparse
import os
import sys
import warnings
import webbrowser
from collections.abc import Sequence
from pathlib import Path

from components.errors import VlmError

_INTERRUPTED_STATUS = 130
_ENDPOINT_VARIABLE = "KF_PIPELINES_ENDPOINT"  # KFP's own name for it


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit status: 0 success, 1 an error with a message, 2 wrong usage, 130 interrupted."""
    options = _parser().parse_args(arguments)
    try:
        status: int = options.command(options)
    except VlmError as error:
        print(f"ERROR: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return _INTERRUPTED_STATUS
    except BrokenPipeError:  # `vlm status | head`
        return 0
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="vlm", description="Train and evaluate vision-language models with Kubeflow Pipelines."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    run = commands.add_parser("run", help="run the pipeline on this machine; finished work is reused")
    _add_preset(run)
    run.add_argument("--workspace", metavar="DIR", help="root folder of all outputs (default: the preset's)")
    run.add_argument("--name", help="name of the run (default: the preset's)")
    run.add_argument(
        "--runner",
        choices=("process", "docker"),
        default="process",
        help="run stages as processes, or as containers of cluster.cpu_image (default: process)",
    )
    run.set_defaults(command=_run)

    compile_ = commands.add_parser("compile", help="write the pipeline as a KFP package for a cluster")
    _add_preset(compile_)
    compile_.add_argument("-o", "--output", metavar="FILE", type=Path, required=True, help="the YAML file to write")
    compile_.set_defaults(command=_compile)

    job = commands.add_parser("job", help="print the training job that a stage submits on a cluster")
    job.add_argument("stage", choices=("pretrain", "sft"), help="the training stage")
    _add_preset(job)
    job.set_defaults(command=_job)

    submit = commands.add_parser("submit", help="run the pipeline on a cluster: upload, start, follow")
    _add_preset(submit)
    submit.add_argument("--name", help="name of the run (default: the preset's)")
    submit.add_argument("--service-account", default="", help="of the run's pods (default: KFP's own)")
    submit.add_argument("--detach", action="store_true", help="print the links and return")
    _add_endpoint(submit, required=True)
    submit.set_defaults(command=_submit)

    cancel = commands.add_parser("cancel", help="end a run of a cluster; its training job is deleted")
    cancel.add_argument("run", help="id of the run")
    _add_endpoint(cancel, required=True)
    cancel.set_defaults(command=_cancel)

    status = commands.add_parser("status", help="show the stages of a run")
    _add_run(status)
    _add_endpoint(status, required=False)
    status.set_defaults(command=_status)

    report = commands.add_parser("report", help="print the path of a run's report")
    _add_run(report)
    report.add_argument("--open", action="store_true", help="open it in the browser")
    report.set_defaults(command=_report)

    compare = commands.add_parser("compare", help="show what differs between runs, on one page")
    compare.add_argument(
        "runs",
        nargs="+",
        metavar="RUN",
        help="a run's id (or its beginning), name or folder, an MLflow run id, or models:/NAME@ALIAS; the first one is what "
        "the others are compared with",
    )
    compare.add_argument(
        "--workspace", metavar="DIR", default=None, help="where they ran (default: the laptop preset's)"
    )
    compare.add_argument(
        "--tracking-uri",
        metavar="URI",
        default=os.environ.get("MLFLOW_TRACKING_URI", ""),
        help="MLflow, for runs whose folders are not here (default: $MLFLOW_TRACKING_URI, else the workspace's database)",
    )
    compare.add_argument(
        "-o",
        "--output",
        metavar="FILE",
        type=Path,
        default=Path("comparison.html"),
        help="the page (default: comparison.html)",
    )
    compare.add_argument("--samples", type=int, default=24, help="most samples shown of each evaluation (default: 24)")
    compare.add_argument(
        "--log", action="store_true", help="keep the page in MLflow too, as an artifact of the newest run"
    )
    compare.add_argument("--open", action="store_true", help="open the page in the browser")
    compare.set_defaults(command=_compare)

    export = commands.add_parser("export", help="write a finished model folder as a folder that transformers loads")
    export.add_argument(
        "model", metavar="MODEL_FOLDER", type=Path, help="folder of a finished training or combine stage"
    )
    export.add_argument("-o", "--output", metavar="FOLDER", type=Path, required=True, help="the new folder")
    _add_overrides(export, "export.custom_code=true")
    export.set_defaults(command=_export)

    doctor = commands.add_parser("doctor", help="tell what this machine can run and what is missing")
    doctor.add_argument(
        "--workspace", metavar="DIR", default=None, help="where outputs would go (default: the laptop preset's)"
    )
    doctor.set_defaults(command=_doctor)
    return parser


def _add_preset(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--preset", default="laptop", help="name of a preset, or path of a YAML file (default: laptop)")
    _add_overrides(parser, "pretrain.recipe.iterations=500")


def _add_overrides(parser: argparse.ArgumentParser, example: str) -> None:
    parser.add_argument(
        "--set",
        dest="overrides",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        help=f"change a setting, as {example}; may be repeated",
    )


def _add_run(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", nargs="?", default="", help="id of a run, or its beginning (default: the latest)")
    parser.add_argument("--workspace", metavar="DIR", default=None, help="where it ran (default: the laptop preset's)")


def _add_endpoint(parser: argparse.ArgumentParser, required: bool) -> None:
    endpoint = os.environ.get(_ENDPOINT_VARIABLE)
    parser.add_argument(
        "--endpoint",
        metavar="URL",
        default=endpoint,
        required=required and not endpoint,
        help=f"Kubeflow Pipelines' API (default: ${_ENDPOINT_VARIABLE})",
    )
    parser.add_argument("--namespace", default="", help="your namespace, on a multi-user installation")
    parser.add_argument("--token-file", metavar="FILE", type=Path, help="file with a bearer token for the endpoint")


def _run(options: argparse.Namespace) -> int:
    from rich.console import Console

    from pipelines.config import load_preset
    from pipelines.display import print_summary
    from pipelines.local_run import Interrupted, run_here

    overrides = list(options.overrides)
    if options.workspace:
        overrides.append(f"workspace={_quoted(str(Path(options.workspace).absolute()))}")
    if options.name:
        overrides.append(f"name={_quoted(options.name)}")
    config = load_preset(options.preset, overrides)
    console = Console()
    try:
        run, status = run_here(config, options.preset, overrides, console, options.runner)
    except Interrupted as interruption:
        print(f"interrupted ({interruption}): all processes have ended; run again to go on", file=sys.stderr)
        return _INTERRUPTED_STATUS
    print_summary(run, console)
    if status:
        print(f"ERROR: {run.error()}\nThe whole output is in {run.log}", file=sys.stderr)
    return status


def _compile(options: argparse.Namespace) -> int:
    from pipelines.compile import compile_pipeline
    from pipelines.config import load_preset

    compile_pipeline(load_preset(options.preset, options.overrides), options.output)
    print(options.output)
    return 0


def _job(options: argparse.Namespace) -> int:
    from pipelines.config import load_preset
    from pipelines.job_preview import job_manifest

    print(job_manifest(load_preset(options.preset, options.overrides), options.stage), end="")
    return 0


def _submit(options: argparse.Namespace) -> int:
    from pipelines.cluster_run import ClusterRuns
    from pipelines.config import load_preset

    overrides = [*options.overrides, *([f"name={_quoted(options.name)}"] if options.name else [])]
    config = load_preset(options.preset, overrides)
    runs = ClusterRuns(options.endpoint, options.namespace, options.token_file)
    run_id = runs.submit(config, f"vlm-training-{Path(options.preset).stem}", options.service_account)
    print(f"run      {run_id}\npage     {runs.link(run_id)}\nMLflow   {config.tracking.uri}", flush=True)
    if options.detach:
        return 0
    try:
        state = runs.follow(run_id, lambda line: print(line, flush=True))
    except KeyboardInterrupt:
        print(
            f"no longer followed; the run goes on. vlm status {run_id} shows it, vlm cancel {run_id} ends it "
            f"(both with --endpoint {runs.endpoint})",
            file=sys.stderr,
        )
        raise
    print(f"run {run_id}: {state.lower()}\npage     {runs.link(run_id)}")
    return 0 if state == "SUCCEEDED" else 1


def _cancel(options: argparse.Namespace) -> int:
    from pipelines.cluster_run import ClusterRuns

    runs = ClusterRuns(options.endpoint, options.namespace, options.token_file)
    runs.cancel(options.run)
    print(f"run {options.run} is being cancelled: {runs.link(options.run)}")
    print(f"left training jobs, if any: kubectl get pytorchjobs,trainjobs -A -l vlm-pipelines/run-id={options.run}")
    return 0


def _cluster_status(options: argparse.Namespace) -> int:
    from pipelines.cluster_run import ClusterRuns, tasks

    runs = ClusterRuns(options.endpoint, options.namespace, options.token_file)
    run = runs.get(options.run)
    for _, name, state, message in tasks(run):
        print(f"{state.lower():<10} {name}{f': {message}' if message else ''}")
    print(f"state    {str(run.state).lower()}\npage     {runs.link(run.run_id)}")
    return 0


def _status(options: argparse.Namespace) -> int:
    if options.endpoint and options.workspace is None:
        return _cluster_status(options)
    from rich.console import Console

    from components.runs.folder import find_run
    from pipelines.display import locations, stage_table

    run = find_run(_workspace(options.workspace), options.run)
    console = Console()
    state = run.state()
    console.print(stage_table(run, run.stages(over=state != "running")))
    for label, value in {"state": state, **locations(run)}.items():
        console.print(f"{label:<8} {value}", soft_wrap=True, highlight=False, markup=False)
    if state == "failed":
        console.print(f"ERROR: {run.error()}", soft_wrap=True, highlight=False, markup=False)
    return 0


def _report(options: argparse.Namespace) -> int:
    from components.errors import InputError
    from components.runs.folder import find_run
    from pipelines.display import report_path

    run = find_run(_workspace(options.workspace), options.run)
    path = report_path(run)
    if path is None:
        raise InputError(
            f"The run {run.run_id} has no report yet: it is {run.state()}. `vlm status {run.run_id}` shows its stages."
        )
    print(path)
    if options.open:
        webbrowser.open(path.as_uri())
    return 0


def _compare(options: argparse.Namespace) -> int:
    from rich.console import Console

    from components.compare.comparison import compare
    from components.compare.page import render_comparison
    from components.compare.runs import keep_page, load_runs
    from components.compare.table import tables
    from components.errors import ConfigurationError
    from components.storage.atomic import write_text

    if len(options.runs) < 2:
        raise ConfigurationError("A comparison needs two runs or more: vlm compare RUN RUN ...")
    workspace = _workspace(options.workspace)
    database = workspace / "mlflow.db"
    tracking_uri = options.tracking_uri or (f"sqlite:///{database}" if database.is_file() else "")
    runs = load_runs(options.runs, workspace, tracking_uri)
    comparison = compare(runs, options.samples)
    console = Console()
    for table in tables(comparison):
        console.print(table)
    write_text(options.output, render_comparison(comparison))
    if options.log:
        print(f"MLflow   {keep_page(runs, options.output)}")
    print(f"page     {options.output}")
    if options.open:
        webbrowser.open(options.output.absolute().as_uri())
    return 0


def _export(options: argparse.Namespace) -> int:
    from components.export.stage import export_to
    from pipelines.config import export_settings

    warnings.filterwarnings("ignore", module=r"(megatron|torch)\.")  # their own deprecations
    export_to(export_settings(options.overrides), options.model.absolute(), options.output.absolute())
    print(options.output)
    return 0


def _doctor(options: argparse.Namespace) -> int:
    from pipelines.doctor import examine

    return examine(_workspace(options.workspace))


def _workspace(option: str | None) -> Path:
    if option is not None:
        return Path(option).absolute()
    from pipelines.config import load_preset

    return load_preset("laptop").workspace.absolute()


def _quoted(text: str) -> str:
    """Return a text as a YAML scalar that is nothing but this text."""
    return "'" + text.replace("'", "''") + "'"


if __name__ == "__main__":
    sys.exit(main())
