"""Commands for what can be set: settings."""

import argparse
from typing import TYPE_CHECKING

from pipelines.cli.arguments import CommandGroup, add_preset
from pipelines.cli.printing import fact_table, literal, plain_table

if TYPE_CHECKING:  # `vlm --help` does not wait for them
    from rich.console import Console

    from pipelines.settings import Section, Setting

_VALUE_WIDTH = 18
_MOST_OF_A_VALUE = 48  # in a table; the page of one setting shows all of it


def add_commands(group: CommandGroup) -> None:
    """Add this group's commands."""
    settings = group.add("settings", _settings, "list settings with default, unit, meaning and use")
    settings.add_argument(
        "key", nargs="?", default="", metavar="KEY", help="a setting, a section, a pattern with *, or a part of keys"
    )
    add_preset(settings, default=None)
    settings.add_argument("--json", action="store_true", help="for programs")


def _settings(options: argparse.Namespace) -> int:
    import json
    from dataclasses import asdict

    from rich.console import Console

    from pipelines.preset_files import DEFAULT_PRESET, load_preset
    from pipelines.settings import matching, run_settings, with_values

    preset = options.preset or (DEFAULT_PRESET if options.overrides else None)
    sections = run_settings()
    if preset:
        sections = with_values(sections, preset, load_preset(preset, options.overrides))
    if options.key:
        sections = matching(sections, options.key)
    found = [setting for section in sections for setting in section.settings]
    console = Console()
    if options.json:
        print(json.dumps([asdict(setting) for setting in found], indent=2))
    elif len(found) == 1:
        _print_setting(console, found[0])
    else:
        for section in sections:
            _print_section(console, section, preset)
    return 0


def _print_setting(console: "Console", setting: "Setting") -> None:
    console.print(literal(setting.key, "bold"))
    console.print(literal(setting.meaning))
    console.print(
        fact_table(
            {
                "default": _default(setting),
                **dict.fromkeys(setting.values, _value(setting)),
                "unit": setting.unit,
                "accepts": setting.accepts,
                "used by": _users(setting.stages),
            }
        )
    )


def _print_section(console: "Console", section: "Section", preset: str | None) -> None:
    table = plain_table(show_header=True)
    table.add_column("setting", no_wrap=True)
    table.add_column(preset or "default", overflow="fold", max_width=_VALUE_WIDTH)
    table.add_column("unit", no_wrap=True)
    table.add_column("meaning")
    for setting in section.settings:
        table.add_row(*map(literal, (setting.name, _value_and_default(setting), setting.unit, setting.meaning)))
    console.print(literal(section.key or "(the run)", "bold"), literal(section.meaning, "dim"))
    console.print(table)
    users = dict.fromkeys(_users(setting.stages) for setting in section.settings)
    console.print(literal(f"used by {', '.join(users)}", "dim"))
    console.print()


def _value_and_default(setting: "Setting") -> str:
    """Return the preset's value and, where it differs, the default."""
    default = _default(setting)
    value = _value(setting) or default
    shown = [f"{text[: _MOST_OF_A_VALUE - 1]}…" if len(text) > _MOST_OF_A_VALUE else text for text in (value, default)]
    return shown[0] if setting.required or value == default else "{} (default {})".format(*shown)


def _users(stages: tuple[str, ...]) -> str:
    return ", ".join(stages) or "every stage"


def _default(setting: "Setting") -> str:
    from pipelines.settings import as_yaml

    return "required" if setting.required else as_yaml(setting.default)


def _value(setting: "Setting") -> str:
    from pipelines.settings import as_yaml

    return " ".join(as_yaml(value) for value in setting.values.values())
