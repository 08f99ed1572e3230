"""What a model said while it learned."""

from pathlib import Path

from components.training.zero_shot_texts import Described, read_texts, write_texts


def test_texts_are_read_in_the_order_of_steps(tmp_path: Path) -> None:
    for step in (10000000, 200, 0):
        said = [Described(step, "a cat", f"{step}\n"), Described(step, "a dog", "ein Hündchen", "What is it?")]
        write_texts(tmp_path, step, said)
    (tmp_path / "zero_shot" / "step_0000200.html").touch()
    found = read_texts(tmp_path)
    assert [samples[0] for samples in found] == [Described(step, "a cat", f"{step}\n") for step in (0, 200, 10000000)]
    assert found[0][1] == Described(0, "a dog", "ein Hündchen", "What is it?")


def test_a_training_without_captions_said_nothing(tmp_path: Path) -> None:
    assert read_texts(tmp_path) == []
