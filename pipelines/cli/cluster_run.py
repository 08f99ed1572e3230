"""Finds the run of a cluster that a command is about."""

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # `vlm --help` does not wait for it
    from pipelines.cluster_view import ClusterRun


def cluster_run(options: argparse.Namespace) -> "ClusterRun":
    """Return the run that the arguments of `add_endpoint`, `add_tracking_uri` and RUN name."""
    from components.runs.find import find_cluster_run
    from components.runs.kfp import KfpRuns
    from pipelines.cluster_pods import RunPods
    from pipelines.cluster_view import ClusterRun

    runs = KfpRuns(options.endpoint, options.namespace, options.token_file)
    run_id = find_cluster_run(options.run, runs, options.tracking_uri)
    return ClusterRun(runs, run_id, options.tracking_uri, RunPods.reached_from_here(run_id, options.namespace))
