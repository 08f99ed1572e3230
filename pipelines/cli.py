"""`vlm`: compile the pipeline, run it here, see how it goes, read its report, export a model, check the machine."""

import argparse
import sys
import webbrowser
from collections.abc import Sequence
from pathlib import Path

from components.errors import VlmError

_INTERRUPTED_STATUS = 130


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
    run.set_defaults(command=_run)

    compile_ = commands.add_parser("compile", help="write the pipeline as a KFP package for a cluster")
    _add_preset(compile_)
    compile_.add_argument("-o", "--output", metavar="FILE", type=Path, required=True, help="the YAML file to write")
    compile_.set_defaults(command=_compile)

    status = commands.add_parser("status", help="show the stages of a run")
    _add_run(status)
    status.set_defaults(command=_status)

    report = commands.add_parser("report", help="print the path of a run's report")
    _add_run(report)
    report.add_argument("--open", action="store_true", help="open it in the browser")
    report.set_defaults(command=_report)

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
        run, status = run_here(config, options.preset, overrides, console)
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


def _status(options: argparse.Namespace) -> int:
    from rich.console import Console

    from pipelines.display import locations, stage_table
    from pipelines.run_folder import find_run

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
    from pipelines.display import report_path
    from pipelines.run_folder import find_run

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


def _export(options: argparse.Namespace) -> int:
    from components.export.stage import export_to
    from pipelines.config import export_settings

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
