"""Commands for what a model can be asked: tasks."""

import argparse
from typing import TYPE_CHECKING, Any

from pipelines.cli.arguments import CommandGroup
from pipelines.cli.printing import fact_table, literal

if TYPE_CHECKING:  # `vlm --help` does not wait for them
    from components.tasks.sample import HeldOutSample
    from components.tasks.task import Task


def add_commands(group: CommandGroup) -> None:
    """Add this group's commands."""
    tasks = group.add("tasks", _tasks, "list the benchmark tasks, or show one with its prompt")
    tasks.add_argument(
        "task", nargs="?", default="", metavar="NAME", help="a task's name, or the path of its .yaml file"
    )
    tasks.add_argument("--json", action="store_true", help="for programs")


def _tasks(options: argparse.Namespace) -> int:
    import json

    from rich.console import Console

    from components.tasks.loading import load_task, task_names

    tasks = [load_task(name) for name in ([options.task] if options.task else task_names())]
    console = Console()
    if options.json:
        print(json.dumps([_described(task) for task in tasks], indent=2))
    elif options.task:
        _print_task(console, tasks[0])
    else:
        for task in tasks:
            console.print(literal(task.name, "bold"), literal(_title(task), "dim"))
            console.print(fact_table(_facts(task)))
            console.print()
    return 0


def _print_task(console: Any, task: "Task") -> None:
    console.print(literal(task.name, "bold"), literal(_title(task), "dim"))
    steps = {"max tokens": str(task.max_new_tokens), "then": ", ".join(task.postprocess)}
    console.print(fact_table({**_facts(task), **steps, **_origin(task)}))
    for sample in _examples(task):
        console.print()
        console.print(literal(f"What the model is asked, for {_example_name(sample)}", "dim"))
        console.print(literal(_asked(task, sample)), soft_wrap=True)
    around = (
        "Nothing else stands before the answer but the token that begins a text, where a model has one."
        if task.prompt.format == "plain"
        else "It is a user's turn: the words around it are those of each model's chat template. How a model read it stands in its "
        "generation's manifest (example_prompt), where a model of transformers answered."
    )
    console.print()
    console.print(literal(around, "dim"))


def _described(task: "Task") -> dict[str, Any]:
    from components.tasks.registry import find_kind

    read = {sample.id: _asked(task, sample) for sample in _examples(task)}
    return {**task.model_dump(mode="json"), "ground_truth": find_kind(task.kind).ground_truth, "examples": read}


def _facts(task: "Task") -> dict[str, str]:
    from components.tasks.registry import find_kind

    truth = find_kind(task.kind).ground_truth
    others = [metric for metric in task.metrics if metric != task.headline]
    return {
        "kind": task.kind,
        "metrics": ", ".join([f"{task.headline} (headline)", *others]),
        "prompt": task.prompt.template or "the picture alone",
        "open": task.prompt.open_template,
        "data": f"{task.dataset}: {truth}" if truth else task.dataset,
    }


def _origin(task: "Task") -> dict[str, str]:
    """Return where a benchmark's parts come from, and what known models reach."""
    figures = [f"{figure.model} {figure.metric} {figure.value:g} ({figure.source})" for figure in task.published]
    return {
        "published data": task.origin.data,
        "prompt of": task.origin.prompt,
        "scored as": task.origin.scoring,
        "known models": "\n".join(figures),
    }


def _title(task: "Task") -> str:
    return f"{task.heading}, version {task.version}"


def _examples(task: "Task") -> list["HeldOutSample"]:
    """Return samples of every sort that the task asks differently about."""
    from components.tasks.sample import HeldOutSample

    question = "What is left of the red circle?"
    closed = HeldOutSample(
        "closed", "a.jpg", question=question, options=("a blue square", "a green star", "nothing"), answer="A"
    )
    opened = HeldOutSample("open", "a.jpg", question=question, references=("a blue square",))
    if not any("{" in template for template in (task.prompt.template, task.prompt.open_template)):
        return [HeldOutSample("any", "a.jpg")]
    if "{options}" not in task.prompt.template:
        return [opened]
    return [closed, opened] if task.prompt.open_template else [closed]


def _example_name(sample: "HeldOutSample") -> str:
    if not sample.question:
        return "any picture"
    return "a question with options" if sample.options else "an open question"


def _asked(task: "Task", sample: "HeldOutSample") -> str:
    from components.data.prompt_text import prompt_text
    from components.tasks.registry import find_kind

    return prompt_text(find_kind(task.kind).ask(task, sample), task.prompt.format)
