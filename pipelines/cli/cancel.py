"""Command that ends a run: cancel."""

import argparse
from typing import TYPE_CHECKING

from pipelines.cli.arguments import RUN_HELP, CommandGroup, add_endpoint, add_places, places_of

if TYPE_CHECKING:
    from components.runs.kfp import KfpRuns
    from pipelines.cluster_objects import RunObjects


def add_commands(group: CommandGroup) -> None:
    """Add this group's commands."""
    cancel = group.add("cancel", _cancel, "end everything of a run, here or on a cluster")
    cancel.add_argument("run", metavar="RUN", help=RUN_HELP)
    add_places(cancel)
    add_endpoint(cancel, required=False)


def _cancel(options: argparse.Namespace) -> int:
    from components.errors import InputError

    if not options.run.strip():  # an empty variable of a script must not end the newest run
        raise InputError("Name the run that is to be cancelled.")
    cancel = _cancel_on_cluster if options.endpoint and options.workspace is None else _cancel_here
    return 0 if cancel(options) else 1


def _cancel_here(options: argparse.Namespace) -> bool:
    from components.errors import InputError
    from components.runs.find import find_run
    from pipelines.local_cancel import cancel_here

    run = find_run(options.run, places_of(options)).here()
    if "pid" not in run.record():
        raise InputError(f"The run {run.run_id} is no run of `vlm run`: name the cluster that runs it with --endpoint.")
    return cancel_here(run, _say)


def _cancel_on_cluster(options: argparse.Namespace) -> bool:
    from pipelines.cluster_cancel import ClusterCancel

    runs, run_id = _found(options)
    _say(f"run      {run_id}")
    return ClusterCancel(run_id, _say).run(runs, _objects(run_id, options.namespace), options.tracking_uri)


def _found(options: argparse.Namespace) -> "tuple[KfpRuns | None, str]":
    """Return the runs of KFP and the id of the one that is meant; a whole id is enough where KFP does not answer."""
    from components.errors import ConfigurationError
    from components.runs.find import find_cluster_run
    from components.runs.kfp import KfpRuns, is_kfp_id

    try:
        runs = KfpRuns(options.endpoint, options.namespace, options.token_file)
    except ConfigurationError as error:
        if not is_kfp_id(options.run):
            raise
        _say(f"KFP      {error}")
        return None, options.run
    return runs, find_cluster_run(options.run, runs, options.tracking_uri)


def _objects(run_id: str, namespace: str) -> "RunObjects | None":
    from components.errors import ConfigurationError
    from components.launch.api import connect
    from pipelines.cluster_objects import RunObjects

    try:
        return RunObjects(connect(pods=1), run_id, namespace)
    except ConfigurationError:
        return None


def _say(line: str) -> None:
    print(line, flush=True)
