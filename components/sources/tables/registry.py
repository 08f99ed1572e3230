"""The formats, by the ends of file names: a row each."""

from components.errors import InputError
from components.sources.tables.arrow import Arrow
from components.sources.tables.delimited import Delimited
from components.sources.tables.json_lines import JsonLines
from components.sources.tables.json_list import JsonList
from components.sources.tables.parquet import Parquet
from components.sources.tables.table import Table
from components.sources.tables.tar_shards import TarShards

TABLES: dict[str, Table] = {
    ".parquet": Parquet(),
    ".arrow": Arrow(),
    ".jsonl": JsonLines(),
    ".ndjson": JsonLines(),
    ".json": JsonList(),
    ".csv": Delimited(","),
    ".tsv": Delimited("\t"),
    ".tar": TarShards(),
}

_ABOUT_DATASETS = ("dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json", "_stats.json")
"""JSON that `datasets` and img2dataset write beside rows."""


def is_table(name: str) -> bool:
    """Tell whether a file holds rows."""
    return name.lower().endswith(tuple(TABLES)) and not name.endswith(_ABOUT_DATASETS)


def table_of(name: str) -> Table:
    """Return the format of a file.

    Raises:
        InputError: It is of none of them.
    """
    for end, table in TABLES.items():
        if name.lower().endswith(end):
            return table
    raise InputError(f"{name} is of no format that can be streamed: {', '.join(TABLES)}.")
