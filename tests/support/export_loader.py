"""Loads exported folders with transformers alone and writes what they answer; run by `test_export.py` in a process of its own.

Argument: a JSON file with the folders, whether their code is trusted, the questions, and where the results go.
"""

import json
import sys
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor


def main(task: dict[str, Any]) -> None:
    """Answer every question with every folder."""
    results = []
    for export in task["exports"]:
        trust = {"trust_remote_code": True} if export["trusted"] else {}
        processor = AutoProcessor.from_pretrained(export["folder"], **trust)
        model, loading = AutoModelForImageTextToText.from_pretrained(
            export["folder"], output_loading_info=True, **trust
        )
        answers = [answer(processor, model, case, task["new_tokens"]) for case in task["cases"]]
        problems = {name: sorted(map(str, values)) for name, values in loading.items() if values}
        classes = {"class": type(model).__name__, "image_processor": type(processor.image_processor).__name__}
        results.append({"answers": answers, "problems": problems, **classes})
    assert not [name for name in sys.modules if name.split(".")[0] in ("components", "pipelines")]
    torch.save(results, task["results"])


def answer(processor: Any, model: Any, case: dict[str, Any], new_tokens: int) -> dict[str, Any]:
    """Ask as the model card says."""
    content: list[dict[str, Any]] = [{"type": "text", "text": case["question"]}]
    if case["picture"]:
        content.append({"type": "image", "image": Image.open(case["picture"])})
    inputs = processor.apply_chat_template(
        [{"role": "user", "content": content}],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        sanitize_control_tokens=True,
    )
    with torch.no_grad():
        logits = model(**inputs).logits[0]
        whole = model.generate(**inputs, max_new_tokens=new_tokens)[0]
    start = inputs["input_ids"].shape[1]
    return {
        "prompt": inputs["input_ids"][0],
        "logits": logits,
        "tokens": whole[start:].tolist(),
        "text": processor.decode(whole[start:], skip_special_tokens=True),
    }


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
