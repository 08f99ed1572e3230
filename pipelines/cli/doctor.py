"""The command that looks before anything runs: doctor."""

import argparse

from pipelines.cli.arguments import CommandGroup, add_endpoint, add_preset, workspace_of


def add_commands(group: CommandGroup) -> None:
    """Add this group's commands."""
    doctor = group.add("doctor", _doctor, "tell what this machine, or a cluster, can run and what is missing")
    doctor.add_argument(
        "--workspace", metavar="DIR", default=None, help="where outputs would go (default: the laptop preset's)"
    )
    cluster = doctor.add_argument_group("a cluster", "kubectl's current one, as far as you may see it")
    cluster.add_argument("--cluster", action="store_true", help="look at the cluster instead of this machine")
    cluster.add_argument("--pods", action="store_true", help="also start short pods: images, workspace, MLflow")
    cluster.add_argument("--service-account", default="", help="of the run's pods (default: KFP's own)")
    cluster.add_argument(
        "--kfp-namespace", metavar="NAME", default="kubeflow", help="where Kubeflow Pipelines runs (default: kubeflow)"
    )
    add_preset(doctor)
    add_endpoint(doctor, required=False)


def _doctor(options: argparse.Namespace) -> int:
    if not options.cluster:
        return _examine_machine(options)
    from rich.console import Console

    from components.launch.api import connect, own_namespace
    from pipelines.doctor import cluster
    from pipelines.doctor.question import Question
    from pipelines.doctor.reader import Reader
    from pipelines.preset_files import load_preset

    config = load_preset(options.preset, options.overrides)
    question = Question(
        config, options.namespace or own_namespace(), options.kfp_namespace, service_account=options.service_account
    )
    reader = Reader(connect(pods=1))
    return cluster.examine(reader, question, Console(), options.endpoint or "", options.token_file, options.pods)


def _examine_machine(options: argparse.Namespace) -> int:
    from pipelines.doctor import machine
    from pipelines.preset_files import DEFAULT_PRESET, load_preset

    if options.preset == DEFAULT_PRESET and not options.overrides:
        return machine.examine(workspace_of(options.workspace))
    from pipelines.doctor.preset import preset_findings

    config = load_preset(options.preset, options.overrides)
    workspace = config.workspace.absolute() if options.workspace is None else workspace_of(options.workspace)
    return machine.examine(workspace, options.preset, preset_findings(config, workspace))
