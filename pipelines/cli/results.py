"""Commands that look at runs: status, logs, report, compare."""

import argparse
import sys
import webbrowser
from pathlib import Path
from typing import TYPE_CHECKING

from pipelines.cli.arguments import RUN_HELP, CommandGroup, add_endpoint, add_places, add_run, places_of

if TYPE_CHECKING:  # `vlm --help` does not wait for them
    from collections.abc import Iterator

    from rich.console import Console

    from components.runs.find import Run


def add_commands(group: CommandGroup) -> None:
    """Add this group's commands."""
    status = group.add("status", _status, "show the stages of a run")
    add_run(status)
    add_endpoint(status, required=False)

    logs = group.add("logs", _logs, "print what a run, or one of its stages, says")
    logs.add_argument("run", nargs="?", default="", metavar="RUN", help=f"{RUN_HELP} (default: the newest run)")
    logs.add_argument(
        "stage",
        nargs="?",
        default="",
        metavar="STAGE",
        help="a stage, as sft or generate/captioning (default: all of a run of this machine; on a cluster the one that failed or runs)",
    )
    logs.add_argument("--rank", type=int, metavar="N", help="only what this rank of a training printed")
    logs.add_argument("-f", "--follow", action="store_true", help="go on until the run, or the stage, is over")
    add_places(logs)
    add_endpoint(logs, required=False)

    report = group.add("report", _report, "print the path of a run's report, or open it in the browser")
    add_run(report)
    report.add_argument("--open", action="store_true", help="open it in the browser")
    report.add_argument(
        "-o",
        "--output",
        metavar="FILE",
        type=Path,
        help="where MLflow's copy goes when the run's workspace is not here (default: report-RUN.html)",
    )

    compare = group.add("compare", _compare, "show what differs between runs, on one page")
    compare.add_argument(
        "runs", nargs="+", metavar="RUN", help=f"{RUN_HELP}; the first one is what the others are compared with"
    )
    add_places(compare)
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
    from rich.console import Console

    console = Console()
    if options.endpoint and options.workspace is None:
        return _cluster_status(options, console)
    from components.runs.find import find_run
    from pipelines.display import local_view, screen
    from pipelines.summary import locations

    run = find_run(options.run, places_of(options)).here()
    state = run.state()
    console.print(screen(local_view(run, over=state != "running"), console.width))
    _print_facts(console, {"state": state, **locations(run)})
    if state == "failed":
        console.print(f"ERROR: {run.error()}", soft_wrap=True, highlight=False, markup=False)
    return 0


def _cluster_status(options: argparse.Namespace, console: "Console") -> int:
    from pipelines.cli.cluster_run import cluster_run
    from pipelines.display import screen

    run = cluster_run(options)
    run.load()
    console.print(screen(run.look(), console.width))
    _print_facts(console, {"state": run.state, "page": run.runs.link(run.run_id)})
    return 0


def _logs(options: argparse.Namespace) -> int:
    from pipelines.log_lines import lines_of_rank, readable

    lines = readable(_log_lines(options))
    for line in lines if options.rank is None else lines_of_rank(lines, options.rank):
        print(line, flush=options.follow)
    return 0


def _log_lines(options: argparse.Namespace) -> "Iterator[str]":
    from pipelines.run_logs import cluster_lines, local_lines

    if options.endpoint and options.workspace is None:
        from pipelines.cli.cluster_run import cluster_run

        run = cluster_run(options)
        return cluster_lines(run, run.pods, options.stage, options.follow)
    from components.runs.find import find_run

    return local_lines(find_run(options.run, places_of(options)).here(), options.stage, options.follow)


def _print_facts(console: "Console", facts: dict[str, str]) -> None:
    for label, value in facts.items():
        console.print(f"{label:<8} {value}", soft_wrap=True, highlight=False, markup=False)


def _report(options: argparse.Namespace) -> int:
    from components.errors import InputError
    from components.report.stage import REPORT_FILE, STAGE
    from components.runs.find import find_run, find_stage

    run = find_run(options.run, places_of(options))
    report = find_stage(run, STAGE)
    if report is None:
        state = f": it is {run.folder.state()}" if run.folder is not None else ""
        raise InputError(f"The run {run.run_id} has no report yet{state}. `vlm status {run.run_id}` shows its stages.")
    path = report.folder / REPORT_FILE if report.folder is not None else _fetched_report(run, options.output)
    print(path)
    if options.open:
        _open(path)
    return 0


def _open(page: Path) -> None:
    """Show a page whose path was printed in the browser, where there is one."""
    if not webbrowser.open(page.absolute().as_uri()):
        print(
            "No browser was found here: open the page above in one, or copy it to where there is one.", file=sys.stderr
        )


def _fetched_report(run: "Run", output: Path | None) -> Path:
    """Copy a report from MLflow: of a run whose workspace is not here."""
    import tempfile

    from components.errors import InputError
    from components.report.stage import REPORT_FILE, STAGE
    from components.runs.find import fetch_stage_file
    from components.storage.atomic import write_text

    with tempfile.TemporaryDirectory() as folder:
        found = fetch_stage_file(run, STAGE, REPORT_FILE, Path(folder))
        if found is None:
            looked = " or ".join(map(str, run.workspaces))
            raise InputError(
                f"The report of the run {run.run_id} is neither in {looked} nor in MLflow ({run.tracking_uri or 'it is not tracked'})."
            )
        path = (output or Path(f"report-{run.run_id}.html")).absolute()
        write_text(path, found.read_text(encoding="utf-8"))
    return path


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
    runs = load_runs(options.runs, places_of(options))
    comparison = compare(runs, options.samples)
    console = Console()
    for table in tables(comparison):
        console.print(table)
    write_text(options.output, render_comparison(comparison))
    if options.log:
        print(f"MLflow   {keep_page(runs, options.output)}")
    print(f"page     {options.output}")
    if options.open:
        _open(options.output)
    return 0
