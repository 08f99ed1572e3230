"""Commands for a cluster: submit, compile, job."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from pipelines.cli.arguments import CommandGroup, add_endpoint, add_preset, add_tracking_uri, quoted

if TYPE_CHECKING:  # `vlm --help` does not wait for it
    from pipelines.cluster_view import ClusterRun


def add_commands(group: CommandGroup) -> None:
    """Add this group's commands."""
    submit = group.add("submit", _submit, "run the pipeline on a cluster: upload, start, follow")
    add_preset(submit)
    submit.add_argument("--name", help="name of the run (default: the preset's)")
    submit.add_argument("--service-account", default="", help="of the run's pods (default: KFP's own)")
    submit.add_argument("--detach", action="store_true", help="print the links and return")
    add_tracking_uri(submit)
    add_endpoint(submit, required=True)

    compile_ = group.add("compile", _compile, "write the pipeline as a KFP package for a cluster")
    add_preset(compile_)
    compile_.add_argument("-o", "--output", metavar="FILE", type=Path, required=True, help="the YAML file to write")

    job = group.add("job", _job, "print the training job that a stage submits on a cluster")
    job.add_argument("stage", help="a stage that trains, as pretrain")
    add_preset(job)


def _submit(options: argparse.Namespace) -> int:
    from components.runs.kfp import KfpRuns
    from pipelines.cluster_pods import RunPods
    from pipelines.cluster_run import submit
    from pipelines.cluster_view import ClusterRun
    from pipelines.kfp_version import warnings
    from pipelines.preset_files import load_preset

    overrides = [*options.overrides, *([f"name={quoted(options.name)}"] if options.name else [])]
    config = load_preset(options.preset, overrides)
    if not config.tracking.kfp_ui and "://" in options.endpoint:
        config = load_preset(options.preset, [*overrides, f"tracking.kfp_ui={quoted(options.endpoint)}"])
    runs = KfpRuns(options.endpoint, options.namespace, options.token_file)
    for warning in warnings(runs.version):
        print(f"WARNING: {warning}", file=sys.stderr)
    run_id = submit(runs, config, f"vlm-training-{Path(options.preset).stem}", options.service_account)
    print(f"run      {run_id}\npage     {runs.link(run_id)}\nMLflow   {config.tracking.uri}", flush=True)
    if options.detach:
        return 0
    return _follow(ClusterRun(runs, run_id, options.tracking_uri, RunPods.reached_from_here(run_id, options.namespace)))


def _follow(run: "ClusterRun") -> int:
    """Show a run until it is over, and return 0 if it succeeded."""
    from rich.console import Console

    from pipelines.cluster_view import POLL_S
    from pipelines.display import watch

    try:
        watch(run.look, Console(), POLL_S)
    except KeyboardInterrupt:
        print(
            f"no longer followed; the run goes on. vlm status {run.run_id} shows it, vlm cancel {run.run_id} ends it "
            f"(both with --endpoint {run.runs.endpoint})",
            file=sys.stderr,
        )
        raise
    print(f"run {run.run_id}: {run.state}\npage     {run.runs.link(run.run_id)}")
    return 0 if run.state == "succeeded" else 1


def _compile(options: argparse.Namespace) -> int:
    from pipelines.compile import compile_pipeline
    from pipelines.preset_files import load_preset

    compile_pipeline(load_preset(options.preset, options.overrides), options.output)
    print(options.output)
    return 0


def _job(options: argparse.Namespace) -> int:
    from pipelines.job_preview import job_manifest
    from pipelines.preset_files import load_preset

    print(job_manifest(load_preset(options.preset, options.overrides), options.stage), end="")
    return 0
