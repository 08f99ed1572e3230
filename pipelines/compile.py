"""Compiles a configuration to a KFP package (YAML)."""

import warnings
from pathlib import Path

from pipelines.config import RunConfig


def compile_pipeline(config: RunConfig, package: Path) -> None:
    """Write the pipeline of a configuration as a KFP package; the same configuration gives the same file.

    Args:
        config: The validated configuration; its values become the defaults of the UI parameters.
        package: The YAML file to write; its folder is created.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # KFP's own deprecations
        from kfp import compiler

        from pipelines.vlm_training import build_pipeline

        package.parent.mkdir(parents=True, exist_ok=True)
        compiler.Compiler().compile(build_pipeline(config), str(package))
