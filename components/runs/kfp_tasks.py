"""What KFP tells about the tasks of a run: which task of the pipeline a node is, how it stands, which pods it had.

KFP answers with a flat list of the nodes of an Argo workflow: for each task a driver, an executor, and every try of each, by the
last part of their names alone, so that two conversions look the same. Which node is whose is in the ids of the children: Argo ends
an id with the FNV-1a hash of the node's whole name, `<parent's name>.<task>`, or `<name>(<number>)` for a try and for a turn of a
loop. So names are guessed from the top down, and each proves itself by its hash.
"""

import datetime
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from components.runs.kfp_run import KfpRun, Node

_EXECUTOR, _DRIVER = "executor", "-driver"
_LOOP = "iteration-"  # how the DAGs are called that KFP's compiler puts around the turns of a loop
_ON_EXIT = "onExit"
_POD_TEMPLATE = "system-container-impl"
_OVER = frozenset({"SUCCEEDED", "FAILED", "SKIPPED", "CANCELED", ""})
_EARLIEST = datetime.datetime.min.replace(tzinfo=datetime.UTC)
_FNV_OFFSET, _FNV_PRIME = 0x811C9DC5, 0x01000193


@dataclass(frozen=True)
class Task:
    """A task, or a DAG, of the pipeline that KFP knows something of.

    Attributes:
        path: Names of the DAGs that it lies in, and its own, as in the pipeline's specification: ("exit-handler-1", "sft").
        turn: Numbers of the turns of the loops around it, the outermost first.
        state: "PENDING" (it waits for its pod), "RUNNING", "SUCCEEDED", "FAILED", "SKIPPED" (its result was there), or empty for
            what the run did not come to.
        started: When it began, UTC.
        ended: When it ended, UTC; None before.
        tries: How often its container was started.
        nodes: Ids of the workflow's nodes of these tries, the last one last.
    """

    path: tuple[str, ...]
    turn: tuple[int, ...]
    state: str
    started: datetime.datetime | None
    ended: datetime.datetime | None
    tries: int = 0
    nodes: tuple[str, ...] = ()

    @property
    def pods(self) -> tuple[str, ...]:
        """Names of the pods of its tries, the last one last."""
        halves = (node.rpartition("-") for node in self.nodes)
        return tuple(f"{workflow}-{_POD_TEMPLATE}-{number}" for workflow, _, number in halves)


def tasks(run: KfpRun) -> list[Task]:
    """Return the tasks and DAGs of a run that have begun or were passed over, in no order.

    Args:
        run: The run.
    """
    return _Workflow(run.nodes).tasks()


class _Workflow:
    """The nodes of a workflow by their whole names.

    Args:
        records: KFP's list of them.
    """

    def __init__(self, records: Sequence[Node]) -> None:
        self._records: dict[str, list[Node]] = defaultdict(list)
        for record in records:
            self._records[record.name].append(record)
        self._ids: dict[str, str] = {}  # of every node that is there
        self._found: dict[str, Node] = {}  # its record, where only one can be meant
        ids = (child for record in records for child in record.children)
        self._name = next(ids, "").rpartition("-")[0]
        self._walk()

    def tasks(self) -> list[Task]:
        """Return the nodes that are tasks or DAGs of the pipeline."""
        names: dict[tuple[tuple[str, ...], tuple[int, ...]], list[str]] = defaultdict(list)
        for name in self._found:
            place = _place(name)
            if place is not None:
                names[place].append(name)
        return [self._task(*place, sorted(found, key=len)) for place, found in names.items()]

    def _task(self, path: tuple[str, ...], turn: tuple[int, ...], names: list[str]) -> Task:
        """Return the task of nodes that are its own, its tries, and its driver."""
        own = [name for name in names if not _last(name).partition("(")[0].endswith(_DRIVER)]
        if not own:  # the driver is all that there is yet
            driver = self._found[names[0]]
            state = driver.state
            return Task(path, turn, state if state in ("FAILED", "") else "PENDING", driver.started, None)
        record = self._found[own[0]]
        executors = [name for name in self._ids if _last(name) == _EXECUTOR and name.rpartition(".")[0] in own]
        tries = [name for executor in executors for name in self._tries(executor)] or executors
        state = record.state
        if state == "RUNNING" and tries and self._waits(tries[-1], record):
            state = "PENDING"
        passed = (self._found[name].state == "SKIPPED" for name in executors if name in self._found)
        if state == "SUCCEEDED" and any(passed):
            state, tries = "SKIPPED", []
        return Task(
            path,
            turn,
            state,
            record.started,
            record.ended if state in _OVER else None,
            len(tries),
            tuple(self._ids[name] for name in tries),
        )

    def _tries(self, name: str) -> Iterator[str]:
        number = 0
        while (attempt := f"{name}({number})") in self._ids:
            yield attempt
            number += 1

    def _waits(self, name: str, task: Node) -> bool:
        """Tell whether a container's pod does not run yet. Executors' names are alike: all that can be meant must wait."""
        meant = [
            record
            for record in self._records[_last(name)]
            if record.state not in _OVER and (record.started or _EARLIEST) >= (task.started or _EARLIEST)
        ]
        return bool(meant) and all(record.state == "PENDING" for record in meant)

    def _walk(self) -> None:
        """Find all nodes, from the workflow's own one down."""
        if len(self._records[self._name]) != 1:
            return  # no workflow yet
        self._found[self._name] = self._records[self._name][0]
        used = {id(self._found[self._name])}
        waiting = [self._name]
        while waiting:
            name = waiting.pop()
            children = {int(child.rpartition("-")[2]) for child in self._found[name].children}
            for number, (child, display) in self._guesses(name).items():
                if number not in children or child in self._ids:
                    continue
                self._ids[child] = f"{self._name}-{number}"
                record = self._record(child, [one for one in self._records[display] if id(one) not in used])
                if record is not None:
                    used.add(id(record))
                    self._found[child] = record
                    waiting.append(child)

    def _record(self, name: str, records: list[Node]) -> Node | None:
        """Return the record of a node among those of its last name; None where that can't be told."""
        if len(records) > 1:
            guesses = self._guesses(name)
            families = [{int(child.rpartition("-")[2]) for child in record.children} for record in records]
            records = [record for record, family in zip(records, families, strict=True) if family & guesses.keys()]
        return records[0] if len(records) == 1 else None

    def _guesses(self, name: str) -> dict[int, tuple[str, str]]:
        """Return hash, name and last name of all nodes that may be a node's children: below it, its tries, what follows it."""
        guesses = {}
        beside = name.rpartition(".")[0]
        own, others = _hash(name), _hash(beside)
        for display in self._records:
            guesses[_hash(f".{display}", own)] = (f"{name}.{display}", display)
            if beside:
                guesses[_hash(f".{display}", others)] = (f"{beside}.{display}", display)
            before, bracket, number = display.rpartition("(")
            if bracket and f".{name}".endswith(f".{before}"):
                guesses[_hash(f"({number}", own)] = (f"{name}({number}", display)
        return guesses


def _place(name: str) -> tuple[tuple[str, ...], tuple[int, ...]] | None:
    """Return path and turn of a task's node, of one of its tries or of its driver; None for other nodes."""
    path: list[str] = []
    turn: list[int] = []
    for part in name.split(".")[2:]:  # after the workflow and "root"
        base, *numbers = part.split("(")
        if base == _ON_EXIT:  # beside what it waits for, not in it
            path.pop()
        elif base == _EXECUTOR:
            return None
        elif base.startswith(_LOOP):
            # "iteration-iterations(2:c)(0)" is a try of the third turn; the other parts have tries alone.
            turn += [int(number.partition(":")[0]) for number in numbers if ":" in number]
        else:
            path.append(base.removesuffix(_DRIVER))
    return (tuple(path), tuple(turn)) if path else None


def _last(name: str) -> str:
    return name.rpartition(".")[2]


def _hash(text: str, start: int = _FNV_OFFSET) -> int:
    """Return the 32-bit FNV-1a hash of a text that goes on from another one."""
    value = start
    for byte in text.encode():
        value = ((value ^ byte) * _FNV_PRIME) & 0xFFFFFFFF
    return value
