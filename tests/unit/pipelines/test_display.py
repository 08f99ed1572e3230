"""A run on the screen: in a terminal, in a log, without colour, in few lines, and when it is interrupted."""

import io
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from rich.console import Console

from components.runs.folder import RunFolder, new_run
from components.runs.rows import StageRow
from components.training.zero_shot_texts import Described, write_texts
from pipelines.display import View, screen
from pipelines.forecast import expected_seconds
from pipelines.learning import drawn, learning, said
from pipelines.preset_files import load_preset
from tests.support.paths import ROOT
from tests.support.terminal import Terminal
from tests.support.waiting import wait_for

# A run that happens quickly: progress files and metrics as stages write them, followed as `vlm run` does.
REPLAY = """
import json, sys, time
from pathlib import Path
from rich.console import Console
from components.progress import Progress, progress_folder
from components.runs.folder import RunFolder
from components.training.zero_shot_texts import Described, write_texts
from pipelines import display

display._LIVE_POLL_S = display._PLAIN_POLL_S = 0.05
run = RunFolder(Path(sys.argv[1]), sys.argv[2])
stages = run.record()["stages"]
hold = run.path / "hold"


class Child:
    looks = 0

    def poll(self):
        self.looks += 1
        while self.looks == 12 and hold.exists():
            time.sleep(0.01)
        if self.looks > 12:
            return 0
        for number, stage in enumerate(stages[:10]):
            if self.looks == 1 + number // 3:
                self.progress(stage).finish("reused" if number == 1 else "done")
        folder = run.workspace / "pretrain" / "key"
        if self.looks == 5:
            self.training = self.progress("pretrain")
            self.training.start("training", 600, "steps")
        if 5 < self.looks < 12:
            step = 100 * (self.looks - 5)
            folder.mkdir(parents=True, exist_ok=True)
            with open(folder / "metrics.jsonl", "a") as stream:
                print(json.dumps({"step": step, "loss": 500.0 / step}), file=stream)
            self.training.update(step, force=True, loss=500.0 / step)
            said = Described(step - 100, "a large red circle on the left", f"a \\x1b[31mred\\ncircle {step}")
            write_texts(folder, step - 100, [said])
        if self.looks == 12:
            self.training.finish("done")
        return None

    def progress(self, stage):
        name = f"{stage.replace('/', '-')}-key.json"
        return Progress(stage, progress_folder(run.workspace, run.run_id) / name)


sys.exit(display.follow(run, Child(), Console()))
"""


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    config = load_preset("laptop")
    run = new_run(tmp_path, "shown")
    expected = expected_seconds(config)
    started = "2026-01-01T00:00:00+00:00"
    run.update_record(stages=list(expected), expected_s=expected, started=started, ended="2026-01-01T00:00:02+00:00")
    return run


def replay(run: RunFolder) -> list[str]:
    return [sys.executable, "-c", REPLAY, str(run.workspace), run.run_id]


def environment(**more: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "COLUMNS", "LINES")}
    return {**kept, "PYTHONPATH": str(ROOT), "TERM": "xterm-256color", **more}


def test_screen_of_80_columns_and_24_lines_shows_everything_at_once(run: RunFolder) -> None:
    (run.path / "hold").touch()  # it goes no further than its training
    terminal = Terminal(replay(run), environment())
    terminal.read(lambda output: "step 400" in output)
    shown = terminal.screen()
    (run.path / "hold").unlink()
    assert terminal.wait() == 0
    assert len(shown) <= 24
    text = "\n".join(shown)
    assert re.search(r"shown-\d+-\d+ +2 s, (about \d+ min|less than a minute) left", text)
    assert re.search(r"▶ +pretrain +\S.*training \d+/600 steps", text)
    assert "generate/captioning" in text
    assert "export" in text
    assert "a held-out picture: a large red circle on the left" in text
    assert re.search(r"step +0 says: a \[31mred circle 100", text), "control characters must not reach a terminal"
    assert re.search("[⠁-⣿]{2,}", text), "no curve"
    # Nothing is left over from screens before, and the last one lists every stage.
    end = "\n".join(terminal.screen())
    assert "\x1b[?25h" in terminal.output, "the cursor stays hidden"
    assert "left" not in end.replace("on the left", "")
    assert all(stage in terminal.output for stage in run.record()["stages"])


def test_screen_has_room_for_notes_that_take_several_lines() -> None:
    names = [f"stage {number}" for number in range(30)]
    rows = [StageRow(name, "done" if number < 5 else "waiting") for number, name in enumerate(names)]
    console = Console(width=40, file=io.StringIO())
    console.print(screen(View("title", rows, ("note " * 20,)), 40, 24))
    assert isinstance(console.file, io.StringIO)
    lines = console.file.getvalue().splitlines()
    assert 18 < len(lines) < 24
    assert any("stages to come" in line for line in lines)


def test_screen_keeps_what_runs_to_its_line(run: RunFolder) -> None:
    terminal = Terminal(replay(run), environment(), columns=60, rows=40)
    terminal.wait()
    assert sum(line.split()[:2] == ["✓", "pretrain"] for line in terminal.screen()) == 1
    assert sum("generate/captioning" in line for line in terminal.screen()) == 1


def test_no_color_is_obeyed(run: RunFolder) -> None:
    colour = re.compile(r"\x1b\[(?:\d+;)*(?:3[0-8]|9[0-7])(?:;\d+)*m")
    with_colour = Terminal(replay(run), environment())
    with_colour.wait()
    assert colour.search(with_colour.output)
    for path in run.path.rglob("progress/*"):
        path.unlink()
    without = Terminal(replay(run), environment(NO_COLOR="1"))
    without.wait()
    assert not colour.search(without.output)
    assert "✓" in without.output


def test_log_has_a_line_for_each_event_and_no_control_codes(run: RunFolder) -> None:
    result = subprocess.run(replay(run), env=environment(), capture_output=True, text=True, check=True, timeout=120)
    assert result.stderr == ""
    assert not re.search(r"[^\n\x20-\x7e\u00a0-\uffff]", result.stdout)
    lines = result.stdout.splitlines()
    assert len(lines) == len(set(lines))
    (started,) = [line for line in lines if line.startswith("pretrain: started")]
    assert re.fullmatch(r"pretrain: started; about \d+ min left", started)
    assert 'step 0 says "a [31mred circle 100" of "a large red circle on the left"' in lines
    assert any(re.match(r"download/dataset: finished before", line) for line in lines)
    assert lines[-1].startswith("pretrain: done")


INTERRUPTED = """
import os, signal, subprocess, sys, time
from pathlib import Path
from rich.console import Console
from components.runs.folder import RunFolder
from pipelines import local_run

run = RunFolder(Path(sys.argv[1]), sys.argv[2])
real = subprocess.Popen


def sleeping(command, **options):
    if "pipelines.local_worker" in command:
        command = [sys.executable, "-c", "import time; print('up', flush=True); time.sleep(600)"]
    return real(command, **options)


subprocess.Popen = sleeping
try:
    local_run.execute(run, Console())
except local_run.Interrupted:
    print("interrupted")
    sys.exit(130)
"""


def test_ctrl_c_in_a_terminal_leaves_a_whole_screen_and_no_process(run: RunFolder) -> None:
    terminal = Terminal([sys.executable, "-c", INTERRUPTED, str(run.workspace), run.run_id], environment())

    def is_up() -> bool:
        terminal.read(lambda output: True)
        return run.log.is_file() and "up" in run.log.read_text()

    wait_for(is_up)
    children = psutil.Process(terminal.pid).children(recursive=True)
    assert children
    terminal.type("\x03")
    assert terminal.wait() == 130
    assert not any(child.is_running() for child in children)
    assert terminal.output.count("\x1b[?25h") == terminal.output.count("\x1b[?25l") == 1
    assert "interrupted" in terminal.screen()[-1]
    assert json.loads((run.path / "run.json").read_text())["state"] == "interrupted"


def test_status_shows_what_a_training_has_learnt(run: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    from pipelines.cli import main

    folder = run.workspace / "pretrain" / "key"
    folder.mkdir(parents=True)
    (folder / "metrics.jsonl").write_text('{"step": 1, "loss": 4.0}\n{"step": 2, "loss": 1.0}\n')
    write_texts(folder, 2, [Described(2, "a cat", "a dog")])
    record = {"stage": "pretrain", "state": "running", "began": time.time(), "updated": time.time(), "pid": os.getpid()}
    (run.path / "progress").mkdir()
    (run.path / "progress" / "pretrain-key.json").write_text(json.dumps(record))
    run.update_record(state="running", pid=os.getpid())
    assert main(["status", "--workspace", str(run.workspace)]) == 0
    said = capsys.readouterr().out
    assert "pretrain: loss 4 to 1" in said
    assert "a held-out picture: a cat" in said
    assert "step 2 says: a dog" in said


def test_fine_tuning_shows_what_was_asked_and_what_is_true(tmp_path: Path) -> None:
    folder = tmp_path / "sft" / "key"
    folder.mkdir(parents=True)
    (folder / "metrics.jsonl").write_text('{"step": 1, "loss": 4.0}\n')
    for step, answer in ((0, "a star"), (200, "red")):
        write_texts(folder, step, [Described(step, "blue", answer, "Which colour?\nred\nblue")])
    seen = learning([StageRow("sft", "running", folder=folder)])
    assert seen is not None
    assert [line.plain for line in drawn(seen, 80)][-4:] == [
        "asked of a held-out picture: Which colour? red blue",
        "  the truth: blue",
        "  step   0 says: a star",
        "  step 200 says: red",
    ]
    assert said(seen)[1] == 'step 200 says "red" to "Which colour? red blue", where "blue" is true'
