"""What people see of a run, here or on a cluster: a live table in a terminal, plain lines elsewhere."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from components.runs.folder import RunFolder
from components.runs.rows import FINISHED_STAGE, StageRow
from pipelines.data_notes import data_notes
from pipelines.forecast import forecast
from pipelines.learning import Learning, drawn, learning, said

_LIVE_POLL_S = 0.5
_PLAIN_POLL_S = 1.0
_PLAIN_LINE_S = 20.0
_MARKS = {
    "waiting": ("·", "dim"),
    "queued": ("○", "yellow"),
    "running": ("▶", "bold cyan"),
    "done": ("✓", "green"),
    "reused": ("↺", "green"),
    "failed": ("✗", "bold red"),
    "interrupted": ("■", "yellow"),
    "not reached": ("·", "dim"),
}
_LONGEST = 160
_UNTIMED = ("waiting", "reused", "not reached")
_ENDED = ("done", "failed", "interrupted")


@dataclass(frozen=True)
class View:
    """How a run stands at one moment.

    Attributes:
        title: What it is called, and how it stands.
        rows: Its stages, in DAG order.
        notes: What else there is to say, a line each.
        over: Nothing will change any more.
        left: About how long the whole run will still take; empty where that is not known.
        learning: What is seen of its trainings; None before one has begun, or where that is not here.
    """

    title: str
    rows: list[StageRow]
    notes: tuple[str, ...] = ()
    over: bool = False
    left: str = ""
    learning: Learning | None = None


class Child(Protocol):
    """The part of `subprocess.Popen` that is used here."""

    def poll(self) -> int | None:
        """Return the exit status, or None while it runs."""


def follow(run: RunFolder, child: Child, console: Console) -> int:
    """Show a run of this machine until its process ends, and return the exit status."""
    status: int | None = None
    notes: tuple[str, ...] = ()

    def look() -> View:
        nonlocal status, notes
        status = child.poll()
        view = local_view(run, status is not None, notes)
        notes = view.notes
        return view

    watch(look, console)
    return 1 if status is None else status


def local_view(run: RunFolder, over: bool, notes: tuple[str, ...] = ()) -> View:
    """Return how a run of this machine stands.

    Args:
        run: The run.
        over: Its process has ended.
        notes: What an earlier view said of its data, which stays true.
    """
    rows = run.stages(over=over)
    record, seconds = run.record(), run.seconds()
    left = None if over else forecast(rows, record.get("expected_s", {}), seconds)
    return View(
        f"{run.run_id}   {duration(seconds)}",
        rows,
        notes or data_notes(run, rows),
        over,
        str(left or ""),
        learning(rows),
    )


def watch(look: Callable[[], View], console: Console, poll_s: float = 0.0) -> View:
    """Show a run until it is over.

    Args:
        look: Tells how it stands.
        console: Where it is shown.
        poll_s: Seconds between two looks; 0 for what looks cost that read files.

    Returns:
        Its last view.
    """
    if console.is_terminal:
        return _watch_live(look, console, poll_s or _LIVE_POLL_S)
    return _watch_plainly(
        look, lambda line: console.print(line, soft_wrap=True, highlight=False, markup=False), poll_s or _PLAIN_POLL_S
    )


def screen(view: View, width: int = 80, height: int = 0) -> RenderableType:
    """Return the table of a run's stages, what is said of it above and below.

    Args:
        view: The run.
        width: Columns there are.
        height: Lines there are, for which stages that are over or far ahead are counted instead of listed; 0 for all.
    """
    below = [*(Text(note) for note in view.notes), *(drawn(view.learning, width) if view.learning is not None else [])]
    taken = sum(1 if text.no_wrap else -(-max(text.cell_len, 1) // width) for text in below)
    rows = _abridged(view.rows, height - taken - 2) if height else view.rows
    table = Table(box=None, padding=(0, 1), show_header=False)
    for _ in range(3):
        table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    table.columns[2].justify = "right"
    for row in rows:
        mark, style = _MARKS.get(row.state, ("?", ""))
        took = duration(row.seconds) if row.state not in _UNTIMED and row.seconds else ""
        running = row.state == "running"
        # What runs keeps to its line, or all others would jump.
        doing = Text(
            what(row), "" if running else "dim", no_wrap=running or None, overflow="ellipsis" if running else None
        )
        table.add_row(Text(mark, style), Text(row.stage, style), took, doing)
    title = f"{view.title}, {view.left}" if view.left else view.title
    return Group(Text(title, "bold"), table, *below)


def _abridged(rows: list[StageRow], room: int) -> list[StageRow]:
    """Return rows in which those that are over, and then those far ahead, are one each, as far as there is no room."""
    over = next((index for index, row in enumerate(rows) if row.state not in FINISHED_STAGE), len(rows))
    hidden = min(over, len(rows) - room + 1)
    if hidden > 1:
        seconds = sum(row.seconds for row in rows[:hidden] if row.state == "done")
        rows = [StageRow(f"{hidden} stages", "done", seconds=seconds), *rows[hidden:]]
    ahead = next((index for index, row in enumerate(reversed(rows)) if row.state != "waiting"), len(rows))
    hidden = min(ahead, len(rows) - room + 1)
    return [*rows[:-hidden], StageRow(f"{hidden} stages to come")] if hidden > 1 else rows


def what(row: StageRow) -> str:
    """Return what a stage is doing, or how it ended, in one line."""
    said = _said(row)
    texts = {
        "waiting": "",
        "done": "",
        "reused": "finished before",
        "running": _progress(row),
        "queued": f"queued: {said}" if said else "queued",
        "failed": said or "failed",
    }
    parts = [texts.get(row.state, said or row.state)]
    if row.parts is not None and row.state in ("running", "queued", "failed", "interrupted", "done"):
        over, all_ = row.parts
        parts.append(f"{all_} partitions" if row.state == "done" else f"{over} of {all_} partitions")
    if row.tries > 1:
        parts.append(f"{row.tries} tries")
    return ", ".join(part for part in parts if part)


def _progress(row: StageRow) -> str:
    parts = []
    if row.activity:
        total = f"/{row.total}" if row.total is not None else ""
        parts.append(f"{row.activity} {row.done}{total} {row.unit}".strip() if row.unit else row.activity)
    if row.rate > 0 and row.unit:
        parts.append(f"{row.rate:.3g}/s")
    parts += [f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}" for name, value in row.fields]
    if row.left_s:
        parts.append(f"{duration(row.left_s)} left")
    return ", ".join(part for part in [*parts, _said(row)] if part)


def _said(row: StageRow) -> str:
    """Return a row's message in a few lines of a screen: what is refused stands first, and the cause comes last."""
    said = row.message.splitlines()[0] if row.message else ""
    return said if len(said) <= _LONGEST else f"{said[: _LONGEST // 2]} ... {said[-_LONGEST // 2 :]}"


def duration(seconds: float) -> str:
    """Return seconds as people write them: 8 s, 3:25, 1:02:03."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    return f"{minutes}:{rest:02}" if minutes < 60 else f"{minutes // 60}:{minutes % 60:02}:{rest:02}"


def _watch_live(look: Callable[[], View], console: Console, poll_s: float) -> View:
    with Live(console=console, auto_refresh=False) as live:
        while True:
            view = look()
            # Once it is over nothing moves any more, and the terminal scrolls.
            height = 0 if view.over else console.height
            live.update(screen(view, console.width, height), refresh=True)
            if view.over:
                return view
            time.sleep(poll_s)


def _watch_plainly(look: Callable[[], View], say: Callable[[str], None], poll_s: float) -> View:
    """Say a line when a stage starts or ends, what the model says, and one every 20 seconds while a stage runs."""
    told: dict[str, str] = {}
    spoke: dict[str, float] = {}
    notes: tuple[str, ...] = ()
    shown: set[str] = set()
    while True:
        view = look()
        now = time.monotonic()
        left = f"; {view.left}" if view.left else ""
        for note in view.notes:
            if note not in notes:
                say(note)
        notes = view.notes
        for line in said(view.learning) if view.learning is not None else []:
            if line not in shown:
                shown.add(line)
                say(line)
        for row in view.rows:
            if row.state in ("waiting", "not reached"):
                continue
            # Why a stage waits, and that it is tried again, are news too.
            news = f"{row.state} {row.tries} {row.message if row.state == 'queued' else ''}"
            if told.get(row.stage) != news:
                # A stage that was over before it was seen gets one line.
                first = not told.get(row.stage, "").startswith("running")
                told[row.stage] = news
                spoke[row.stage] = now
                took = f" ({duration(row.seconds)})" if row.state in _ENDED and row.seconds else ""
                started = ("started" if first else what(row)) if row.state == "running" else what(row) or row.state
                say(f"{row.stage}: {started}{took}{left}")
            elif row.state == "running" and now - spoke[row.stage] >= _PLAIN_LINE_S:
                spoke[row.stage] = now
                say(f"{row.stage}: {what(row)}{left}")
        if view.over:
            return view
        time.sleep(poll_s)
