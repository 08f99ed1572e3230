"""The programs that published figures come from, run as they are, out of clones of their repositories."""

import ast
import contextlib
import io
import json
import random
import re
import subprocess
import sys
import tempfile
import types
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

Namespace = dict[str, Any]


def source(repository: Path, path: str) -> str:
    """Return a file of a clone's HEAD."""
    return subprocess.run(
        ["git", "-C", str(repository), "show", f"HEAD:{path}"], check=True, capture_output=True, text=True
    ).stdout


def taken(text: str, names: Sequence[str], **known: Any) -> Namespace:
    """Run the named functions, classes and constants of a program, and nothing else of it."""
    wanted = [
        node
        for node in ast.parse(text).body
        if getattr(node, "name", None) in names
        or (isinstance(node, ast.Assign) and any(isinstance(one, ast.Name) and one.id in names for one in node.targets))
    ]
    namespace: Namespace = {"re": re, "random": random, **known}
    exec(compile(ast.Module(wanted, []), "<official>", "exec"), namespace)
    return namespace


class Official:
    """The official programs.

    Args:
        repositories: Names of the options to clones.
    """

    def __init__(self, repositories: Mapping[str, Path]) -> None:
        import numpy
        import pandas

        llava, lmms, kit, vqa, mmmu, gqa = (
            repositories[name] for name in ("llava", "lmms_eval", "vlmevalkit", "vqa", "mmmu", "gqa")
        )
        self._pandas = pandas
        self._pope = taken(source(llava, "llava/eval/eval_pope.py"), ["eval_pope"], json=json)["eval_pope"]
        self._science = source(llava, "llava/eval/eval_science_qa.py")
        m4c = taken(
            source(llava, "llava/eval/m4c_evaluator.py"),
            ["EvalAIAnswerProcessor", "TextVQAAccuracyEvaluator"],
            tqdm=lambda items: items,
        )
        self.processor = m4c["EvalAIAnswerProcessor"]()
        self._textvqa = m4c["TextVQAAccuracyEvaluator"]()
        python2 = source(vqa, "PythonEvaluationTools/vqaEvaluation/vqaEval.py").expandtabs(8)
        python3 = re.sub(r'^(\s*)print (".*")$', r"\1print(\2)", python2, flags=re.MULTILINE)
        self._vqa = taken(python3, ["VQAEval"], sys=sys)["VQAEval"]
        self._mme = taken(source(lmms, "lmms_eval/tasks/mme/utils.py"), ["parse_pred_ans"])["parse_pred_ans"]
        self._ai2d = taken(
            source(lmms, "lmms_eval/tasks/ai2d/utils.py"), ["MultiChoiceRegexFilter"], ExtendedRegexFilter=object
        )["MultiChoiceRegexFilter"]
        self._relaxed = taken(source(lmms, "lmms_eval/tasks/chartqa/utils.py"), ["relaxed_correctness"])
        text = re.sub(r"@register_\w+\((?:[^()]|\([^()]*\))*\)\n", "", source(lmms, "lmms_eval/api/metrics.py"))
        self._anls = taken(text, ["anls", "levenshtein_distance"])
        self._infer = taken(
            source(kit, "vlmeval/utils/matching_util.py"),
            ["can_infer", "can_infer_option", "can_infer_text", "_VERBOSE_ANSWER_RE"],
            cp=__import__("copy"), os=__import__("os"), string=__import__("string"), logger=None,
        )["can_infer"]  # fmt: skip
        self._circular = taken(
            source(kit, "vlmeval/dataset/utils/multiple_choice.py"),
            ["prefetch_circular_group", "eval_circular_group", "prefetch_answer", "build_choices"],
            can_infer=self._infer, pd=pandas, string=__import__("string"),
            extract_answer_from_item=lambda *_, **__: {"opt": "Z", "log": ""},
        )["eval_circular_group"]  # fmt: skip
        self._mme_rating = taken(
            source(kit, "vlmeval/dataset/utils/yorn.py"), ["MME_rating"],
            np=numpy, defaultdict=__import__("collections").defaultdict, load=lambda data: data, d2df=lambda data: data,
        )["MME_rating"]  # fmt: skip
        self._gqa = source(llava, "scripts/convert_gqa_for_eval.py"), source(gqa, "eval/eval_gqa.py")
        self._seed = taken(source(llava, "scripts/convert_seed_for_submission.py"), ["eval_single"], json=json)
        extract = taken(
            source(lmms, "lmms_eval/tasks/_task_utils/mcq_extract.py"),
            ["extract_mcq_answer", "_DEFAULT_CHOICES", "_ANSWER_PHRASES", "_FORMAT_PRIORITY"],
            List=list, Optional=__import__("typing").Optional,
        )  # fmt: skip
        self._real_world = taken(
            re.sub(r"^\s*from lmms_eval.*mcq_extract import .*$", "", source(lmms, "lmms_eval/tasks/realworldqa/utils.py"), flags=re.MULTILINE),
            ["realworldqa_process_results"], extract_mcq_answer=extract["extract_mcq_answer"],
        )["realworldqa_process_results"]  # fmt: skip
        self._scores: Namespace = {}
        self._ocr = taken(
            source(kit, "vlmeval/dataset/utils/ocrbench.py"), ["OCRBench_eval"],
            tqdm=lambda items: items, load=lambda data: data, dump=lambda found, _: self._scores.update(found),
            get_intermediate_file_path=lambda *_: "", logger=types.SimpleNamespace(info=lambda _: None),
        )["OCRBench_eval"]  # fmt: skip
        guess = types.SimpleNamespace(choice=lambda _: None)
        self._mmmu = taken(
            source(mmmu, "mmmu/utils/eval_utils.py"),
            ["parse_multi_choice_response", "parse_open_response", "check_is_number", "normalize_str", "extract_numbers", "eval_open"],
            np=numpy, random=guess,
        )  # fmt: skip
        self._mmmu_pro = taken(
            source(mmmu, "mmmu-pro/evaluate.py"), ["parse_multi_choice_response"], np=numpy, random=guess
        )["parse_multi_choice_response"]

    def pope(self, text: str) -> str:
        """Return what LLaVA's eval_pope.py reads."""
        answers = [{"text": text}, {"text": "yes"}]
        with tempfile.NamedTemporaryFile("w", suffix=".json") as labels, contextlib.redirect_stdout(io.StringIO()):
            labels.write('{"label": "yes"}\n' * 2)
            labels.flush()
            self._pope(answers, labels.name)
        return answers[0]["text"]

    def scienceqa(self, texts: Sequence[str], options: Sequence[Sequence[str]]) -> list[str | None]:
        """Return the letters that LLaVA's eval_science_qa.py reads; the program is run once for all."""
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary)
            names = [str(row) for row in range(len(texts))]
            (folder / "program.py").write_text(self._science)
            (folder / "pid_splits.json").write_text(json.dumps({"test": names}))
            problems = {
                name: {"choices": list(choices), "answer": 0} for name, choices in zip(names, options, strict=True)
            }
            (folder / "problems.json").write_text(json.dumps(problems))
            lines = [
                json.dumps({"question_id": name, "text": text, "prompt": "<image>"})
                for name, text in zip(names, texts, strict=True)
            ]
            (folder / "answers.jsonl").write_text("\n".join(lines))
            command = [sys.executable, "program.py", "--base-dir", ".", "--result-file", "answers.jsonl"]
            command += ["--output-file", "output.json", "--output-result", "result.json"]
            subprocess.run(command, cwd=folder, check=True, capture_output=True)
            found = json.loads((folder / "result.json").read_text())["results"]
        return ["ABCDE"[found[name]] if found[name] >= 0 else None for name in names]

    def gqa(self, texts: Sequence[str], truths: Sequence[str]) -> list[float]:
        """Return the accuracy that GQA's eval.py gives every answer as LLaVA converts it; each is a type of question of its own."""
        names = [f"q{row}" for row in range(len(texts))]
        questions = {
            name: {
                "question": "?", "answer": truth, "isBalanced": True, "semantic": [],
                "types": {"structural": name, "semantic": "obj", "detailed": "x"}, "groups": {"global": "x"},
            }
            for name, truth in zip(names, truths, strict=True)
        }  # fmt: skip
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary)
            (folder / "t_questions.json").write_text(json.dumps(questions))
            lines = [json.dumps({"question_id": name, "text": text}) for name, text in zip(names, texts, strict=True)]
            (folder / "answers.jsonl").write_text("\n".join(lines))
            for number, program in enumerate(self._gqa):
                (folder / f"{number}.py").write_text(program)
            convert = ["0.py", "--src", "answers.jsonl", "--dst", "t_predictions.json"]
            subprocess.run([sys.executable, *convert], cwd=folder, check=True, capture_output=True)
            said = subprocess.run(
                [sys.executable, "1.py", "--tier", "t"], cwd=folder, check=True, capture_output=True, text=True
            ).stdout
        found = dict(re.findall(r"^  (q\d+): ([\d.]+)% \(1 questions\)$", said, re.MULTILINE))
        return [float(found[name]) / 100 for name in names]

    def seedbench(self, texts: Sequence[str], truths: Sequence[str]) -> list[float]:
        """Return the mark that LLaVA's program gives every answer.

        Each is a type of question of its own, beside a right answer: the program ends at a type without any.
        """
        rows = [
            (f"{row}-{side}", row, text, truth)
            for row, pair in enumerate(zip(texts, truths, strict=True))
            for side, (text, truth) in enumerate((pair, ("A", "A")))
        ]
        self._seed["data"] = {
            "questions": [
                {"question_id": name, "question_type_id": row, "data_type": "image", "answer": truth}
                for name, row, _, truth in rows
            ]
        }
        self._seed["ques_type_id_to_name"] = {row: str(row) for row in range(len(truths))}
        said = io.StringIO()
        with tempfile.NamedTemporaryFile("w", suffix=".jsonl") as answers, contextlib.redirect_stdout(said):
            answers.write("\n".join(json.dumps({"question_id": name, "text": text}) for name, _, text, _ in rows))
            answers.flush()
            self._seed["eval_single"](answers.name)
        found = dict(re.findall(r"^(\d+): ([\d.]+)%$", said.getvalue(), re.MULTILINE))
        return [float(found[str(row)]) / 50 - 1 for row in range(len(truths))]

    def realworldqa(self, text: str, truth: str) -> float:
        """Return lmms-eval's mark."""
        return float(self._real_world({"answer": truth}, [text])["exact_match"])

    def letter(self, rule: str, text: str, options: Sequence[str]) -> str | None:
        """Return the letter that the program behind a rule reads; None where it reads none or guesses."""
        letters = "ABCDEFGHIJ"[: len(options)]
        named = dict(zip(letters, options, strict=True))
        if rule == "mmmu":
            return self._mmmu["parse_multi_choice_response"](text, list(letters), named)
        if rule == "mmmu_pro":
            with contextlib.redirect_stdout(io.StringIO()):
                return self._mmmu_pro(text, list(letters), named)
        if rule == "mmbench":
            found = self._infer(text, dict(named))
            return found if found and found in letters else None
        if rule == "ai2d":
            (said,) = self._ai2d.apply(None, [[text]], [None])
            table = str.maketrans("", "", "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~")
            plain = said.lower().translate(table)
            return next((letter for letter in letters if letter.lower() == plain), None)
        return text if text in tuple(letters) else None  # LLaVA's convert_seed_for_submission.py: equality

    def mme(self, text: str) -> str:
        """Return yes, no or other."""
        return self._mme(text)

    def mme_total(self, rows: Sequence[tuple[str, str, float]]) -> float:
        """Return the sum of all subtasks, for rows of subtask, picture and whether it is right."""
        frame = self._pandas.DataFrame(rows, columns=["category", "image_path", "score"])
        found = self._mme_rating(frame)
        return found["perception"] + found["reasoning"]

    def vqa(self, text: str, given: Sequence[str]) -> float:
        """Return the challenge's accuracy of an answer as LLaVA hands it in."""
        truth = {
            0: {
                "answers": [{"answer": one, "id": row} for row, one in enumerate(given)],
                "question_type": "",
                "answer_type": "",
            }
        }
        said = types.SimpleNamespace(qa={0: {"answer": self.processor(text)}})
        judge = self._vqa(types.SimpleNamespace(qa=truth, getQuesIds=lambda: [0]), said, n=6)
        with contextlib.redirect_stdout(io.StringIO()):
            judge.evaluate([0])
        return judge.accuracy["overall"] / 100

    def textvqa(self, text: str, given: Sequence[str]) -> float:
        """Return TextVQA's accuracy."""
        return self._textvqa.eval_pred_list([{"pred_answer": text, "gt_answers": list(given)}])

    def relaxed(self, text: str, truth: str) -> float:
        """Return ChartQA's relaxed correctness."""
        return float(self._relaxed["relaxed_correctness"](text, truth))

    def anls(self, text: str, accepted: Sequence[str]) -> float:
        """Return the similarity."""
        return float(self._anls["anls"](list(accepted), [text])["anls"])

    def ocrbench(self, text: str, accepted: Sequence[str], category: str) -> float:
        """Return whether an answer counts."""
        row = {"prediction": text, "answer": repr(list(accepted)), "category": category}
        self._ocr(self._pandas.DataFrame([row]))
        return float(self._scores["Final Score"])

    def mmmu_open(self, text: str, accepted: Sequence[str]) -> float:
        """Return whether an open answer counts."""
        return float(self._mmmu["eval_open"](list(accepted), self._mmmu["parse_open_response"](text)))

    def circular(self, texts: Sequence[str], options: Sequence[Sequence[str]], answers: Sequence[str]) -> float:
        """Return whether all rotations of a question are right."""
        rows = [
            {"prediction": text, "GT": answer, **dict(zip("ABCD", choices, strict=False))}
            for text, choices, answer in zip(texts, options, answers, strict=True)
        ]
        found = self._circular(None, self._pandas.DataFrame(rows))
        return float((found[0] if isinstance(found, tuple) else found)["hit"])
