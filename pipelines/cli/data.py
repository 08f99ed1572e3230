"""Commands for data: a first look at any dataset."""

import argparse
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from pipelines.cli.arguments import CommandGroup, add_preset
from pipelines.cli.printing import fact_table, literal, plain_table

if TYPE_CHECKING:  # `vlm --help` does not wait for them
    from rich.console import Console

    from components.look.findings import LoadedSample
    from components.look.page import Distribution
    from components.look.tokenizer import LookTokenizer
    from components.sources.config import DatasetSource
    from pipelines.config import RunConfig


def add_commands(group: CommandGroup) -> None:
    """Add this group's commands."""
    data = group.add("data", _data, "look at a dataset: layout, counts, and samples as a model sees them")
    data.add_argument(
        "source",
        metavar="SOURCE",
        help="hf://datasets/ORG/NAME, or a file or folder by file:///, s3:// or https://: parquet, arrow, JSON lines, CSV, tar "
        "shards, pictures with metadata",
    )
    data.add_argument("--config", default="", metavar="NAME", help="configuration (subset) of the dataset")
    data.add_argument("--split", default="train", metavar="NAME", help="split of the dataset (default: train)")
    data.add_argument("--revision", default="", metavar="NAME", help="branch, tag or commit of the hub")
    data.add_argument(
        "--columns", default="", metavar="A,B", help="columns to read (default: those that the layout needs)"
    )
    data.add_argument(
        "--map",
        dest="mapping",
        action="append",
        default=[],
        metavar="NAME=COLUMN",
        help="which column a layout's is, as image=photo; may be repeated",
    )
    data.add_argument("--layout", default="", metavar="NAME", help="the layout (default: recognised)")
    data.add_argument(
        "--stage", choices=("pretrain", "sft"), default="sft", help="show what this training would see (default: sft)"
    )
    data.add_argument(
        "--tokenizer",
        type=Path,
        metavar="FOLDER",
        help="a language model's folder in Hugging Face layout, or a run's model folder (default: that of the preset's language model; for "
        "random:// one trained on the samples)",
    )
    data.add_argument("--rows", type=int, default=500, help="most rows to look at, evenly spread (default: 500)")
    data.add_argument("--samples", type=int, default=50, help="most samples on the page (default: 50)")
    data.add_argument(
        "-o", "--output", type=Path, default=Path("data.html"), metavar="FILE", help="the page (default: data.html)"
    )
    data.add_argument("--open", action="store_true", help="open the page in the browser")
    add_preset(data)


def _data(options: argparse.Namespace) -> int:
    import webbrowser

    from rich.console import Console

    from components.errors import ConfigurationError
    from components.look.findings import Findings, load_samples, see
    from components.look.image import image_settings_of
    from components.look.page import distributions_of, facts_of, render_look
    from components.progress import Progress
    from components.sources.recording import look_at
    from components.storage.atomic import write_text
    from pipelines.preset_files import load_preset

    if min(options.rows, options.samples) < 1:
        raise ConfigurationError("--rows and --samples must be 1 or more.")
    config, source = load_preset(options.preset, options.overrides), _source(options)
    progress, findings = Progress("data"), Findings()
    image = image_settings_of(config.combine.image, config.weights)
    looked = look_at(source, "SOURCE", config.data.transfer, progress)
    loaded = list(load_samples(looked, options.rows, findings, progress))
    recipe = getattr(config, options.stage).recipe
    with tempfile.TemporaryDirectory() as folder:
        tokenizer = _tokenizer(options.tokenizer, loaded, config, Path(folder))
        see(loaded, tokenizer, image, recipe.prompt_format, recipe.sequence_length, options.samples, findings)
    lead = (
        f"As {options.stage} of the preset {options.preset} takes them: pictures of {image.size} × {image.size} pixels "
        f"({image.layout}), {image.tokens} tokens each; the format {recipe.prompt_format}; sequences of {recipe.sequence_length:,} "
        f"tokens; a tokenizer {tokenizer.about}."
    )
    write_text(options.output, render_look(looked, findings, lead))
    console = Console()
    console.print(literal(looked.dataset.name, "bold"))
    console.print(fact_table({**facts_of(looked, findings), "tokenizer": tokenizer.about}))
    console.print()
    _print_distributions(console, distributions_of(findings))
    for reason in findings.reasons[:3]:
        console.print(literal(reason, "dim"), soft_wrap=True)
    console.print(fact_table({"page": str(options.output)}))
    if options.open:
        webbrowser.open(options.output.absolute().as_uri())
    return 0


def _source(options: argparse.Namespace) -> "DatasetSource":
    """Return the dataset's settings as typed."""
    from pydantic import ValidationError

    from components.errors import ConfigurationError
    from components.sources.config import DatasetSource

    for item in options.mapping:
        if "=" not in item:
            raise ConfigurationError(f"--map {item!r} must have the form NAME=COLUMN, as image=photo.")
    try:
        return DatasetSource(
            uri=options.source,
            config=options.config,
            split=options.split,
            revision=options.revision,
            columns=tuple(name for name in options.columns.split(",") if name),
            layout=options.layout,
            mapping=dict(item.split("=", 1) for item in options.mapping),
        )
    except ValidationError as error:
        raise ConfigurationError("; ".join(problem["msg"] for problem in error.errors())) from None


def _tokenizer(folder: Path | None, loaded: "list[LoadedSample]", config: "RunConfig", work: Path) -> "LookTokenizer":
    from components.download.weights_config import RANDOM
    from components.look.tokenizer import published_tokenizer, source_tokenizer, trained_tokenizer

    if folder is not None:
        return published_tokenizer(folder, work / "prepared")
    if config.weights.language_source != RANDOM:
        return source_tokenizer(config.weights.language_source, config.weights.transfer, work)
    texts = (turn["value"] for item in loaded for turn in item.sample.conversation)
    return trained_tokenizer(texts, config.weights, work)


def _print_distributions(console: "Console", rows: "list[Distribution]") -> None:
    table = plain_table(show_header=True)
    table.add_column("")
    for name in ("least", "median", "95 %", "most"):
        table.add_column(name, justify="right")
    for row in rows:
        table.add_row(row.name, row.low, row.median, row.high, row.most)
    console.print(table)
    console.print()
