"""How commands print what they list."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:  # `vlm --help` does not wait for it
    from rich.table import Table
    from rich.text import Text


def plain_table(show_header: bool = False) -> "Table":
    """Return a table without lines, for columns to be added."""
    from rich.table import Table

    return Table(box=None, show_header=show_header, header_style="dim", pad_edge=False, padding=(0, 2, 0, 0))


def fact_table(facts: dict[str, str]) -> "Table":
    """Return a table with a line for each fact that has a text."""
    table = plain_table()
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for label, text in facts.items():
        if text:
            table.add_row(label, literal(text))
    return table


def literal(text: str, style: str = "") -> "Text":
    """Return a text whose brackets are no markup."""
    from rich.text import Text

    return Text(text, style=style)
