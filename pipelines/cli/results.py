"""Commands that look at runs: status, report, compare."""

import argparse
import os
import webbrowser
from pathlib import Path

from pipelines.cli.arguments import CommandGroup, add_endpoint, add_run, workspace_of


def add_commands(group: CommandGroup) -> None:
    """Add this group's commands."""
    status = group.add("status", _status, "show the stages of a run")
    add_run(status)
    add_endpoint(status, required=False)

    report = group.add("report", _report, "print the path of a run's report")
    add_run(report)
    report.add_argument("--open", action="store_true", help="open it in the browser")

    compare = group.add("compare", _compare, "show what differs between runs, on one page")
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


def _status(options: argparse.Namespace) -> int:
    if options.endpoint and options.workspace is None:
        return _cluster_status(options)
    from rich.console import Console

    from components.runs.folder import find_run
    from pipelines.display import locations, stage_table

    run = find_run(workspace_of(options.workspace), options.run)
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

    run = find_run(workspace_of(options.workspace), options.run)
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
    workspace = workspace_of(options.workspace)
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


def _cluster_status(options: argparse.Namespace) -> int:
    from pipelines.cluster_run import ClusterRuns, tasks

    runs = ClusterRuns(options.endpoint, options.namespace, options.token_file)
    run = runs.get(options.run)
    for _, name, state, message in tasks(run):
        print(f"{state.lower():<10} {name}{f': {message}' if message else ''}")
    print(f"state    {str(run.state).lower()}\npage     {runs.link(run.run_id)}")
    return 0
