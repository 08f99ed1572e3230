"""What a person sets in KFP's UI: one line for each parameter of the pipeline.

KFP reads a pipeline's parameters and a task's inputs from function signatures and docstrings. `takes_parameters` writes
both from the table; `given_parameters` reads the values inside the task.
"""

import argparse
import functools
import inspect
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from components.errors import StageError
from pipelines.config import RunConfig, setting


@dataclass(frozen=True)
class Parameter:
    """A row of the table.

    Attributes:
        name: Name in the UI.
        type: str, int, float or list.
        description: What the UI says about it.
        settings: Dotted keys of the settings behind it, `*` for every evaluation; the first one gives the default. The
            overrides have none: they can be any.
    """

    name: str
    type: type
    description: str
    settings: tuple[str, ...]

    def default(self, config: RunConfig) -> Any:
        """Return the preset's value."""
        return setting(config, self.settings[0]) if self.settings else []

    def keys(self, config: RunConfig) -> list[str]:
        """Return the dotted keys of all settings behind it."""
        filled = (key.replace("*", name) for key in self.settings for name in config.evaluations)
        return list(dict.fromkeys(filled))  # a key without `*` once


OVERRIDES = "overrides"
_WIDTH = ("pretrain.launch.tensor_parallel", "sft.launch.tensor_parallel", "evaluations.*.generate.tensor_parallel")
_NODES = ("pretrain.launch.nodes", "sft.launch.nodes")
_PROCESSES = (
    "pretrain.launch.processes_per_node",
    "sft.launch.processes_per_node",
    "evaluations.*.generate.processes_per_node",
)

# fmt: off
UI_PARAMETERS = (
    Parameter("run_name", str, "Name of the run that people see, also in MLflow.", ("name",)),
    Parameter("workspace", str, "Root folder of all stage outputs; on a cluster the mount path of the volume.", ("workspace",)),
    Parameter("data_source", str, 'Where the dataset comes from, as "hf://owner/name" or "file:///folder".', ("data.source",)),
    Parameter("language_source", str, "Where the language model comes from, likewise.", ("weights.language_source",)),
    Parameter("vision_source", str, "Where the vision tower comes from, likewise.", ("weights.vision_source",)),
    Parameter("pretrain_iterations", int, "Optimizer steps of pretraining.", ("pretrain.recipe.iterations",)),
    Parameter("sft_iterations", int, "Optimizer steps of fine-tuning.", ("sft.recipe.iterations",)),
    Parameter("pretrain_global_batch_size", int, "Samples per step of pretraining over all GPUs.", ("pretrain.recipe.global_batch_size",)),
    Parameter("sft_global_batch_size", int, "Samples per step of fine-tuning over all GPUs.", ("sft.recipe.global_batch_size",)),
    Parameter("pretrain_learning_rate", float, "Peak learning rate of pretraining.", ("pretrain.recipe.learning_rate",)),
    Parameter("sft_learning_rate", float, "Peak learning rate of fine-tuning.", ("sft.recipe.learning_rate",)),
    Parameter("tensor_parallel", int, "Processes that share one copy of the model; a divisor of processes_per_node.", _WIDTH),
    Parameter("nodes", int, "Machines of each training job; more than one needs the backend pytorchjob or trainjob.", _NODES),
    Parameter("processes_per_node", int, "Processes on each machine that train or generate, one per GPU.", _PROCESSES),
    Parameter("queue", str, "Kueue LocalQueue that admits the training jobs; empty for none.", ("cluster.job.queue",)),
    Parameter("tracking_uri", str, 'MLflow tracking server; "auto" takes the environment\'s, "none" switches tracking off.', ("tracking.uri",)),
    Parameter("experiment", str, "MLflow experiment.", ("tracking.experiment",)),
    Parameter(OVERRIDES, list, 'Any other settings of the preset, as ["pretrain.recipe.warmup_fraction=0.02"].', ()),
)
# fmt: on


def takes_parameters(defaults: RunConfig | None = None) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Return a decorator that gives a function, in place of `**parameters`, one argument for each parameter of the UI.

    Args:
        defaults: Configuration whose values are the defaults; without one there are none.
    """

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        own = inspect.signature(function)
        arguments = [item for item in own.parameters.values() if item.kind is not inspect.Parameter.VAR_KEYWORD]
        arguments += [
            inspect.Parameter(
                parameter.name,
                inspect.Parameter.POSITIONAL_OR_KEYWORD,
                annotation=parameter.type,
                default=parameter.default(defaults) if defaults is not None else inspect.Parameter.empty,
            )
            for parameter in UI_PARAMETERS
        ]
        signature = own.replace(parameters=arguments)

        @functools.wraps(function)
        def spelled_out(*values: Any, **named: Any) -> Any:
            return function(**signature.bind(*values, **named).arguments)

        document = inspect.getdoc(function) or ""
        heading = [] if "\nArgs:\n" in document else ["", "Args:"]
        lines = [f"    {parameter.name}: {parameter.description}" for parameter in UI_PARAMETERS]
        spelled_out.__doc__ = "\n".join([document, *heading, *lines])
        spelled_out.__signature__ = signature  # type: ignore[attr-defined]
        return spelled_out

    return decorate


def given_parameters() -> dict[str, Any]:
    """Return the values of the parameters, in the KFP task that runs in this process.

    KFP carries a task's function as source text, and hands it the inputs that are named there. All inputs are on the
    command line of KFP's executor.

    Raises:
        StageError: A parameter has no value.
    """
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("--executor_input", type=json.loads, required=True)
    values: Mapping[str, Any] = parser.parse_known_args()[0].executor_input["inputs"]["parameterValues"]
    missing = [parameter.name for parameter in UI_PARAMETERS if values.get(parameter.name) is None]
    if missing:
        raise StageError(
            f"The pipeline has no value of {', '.join(missing)}: it was compiled with another version of this code than runs "
            "here. Compile it again: vlm compile"
        )
    return {parameter.name: values[parameter.name] for parameter in UI_PARAMETERS}
