"""The ClusterTrainingRuntime that TrainJobs name."""

from collections.abc import Iterator

from components.launch.runtime import OURS, runtime_problems
from pipelines.doctor.finding import Finding, Mark
from pipelines.doctor.question import Question
from pipelines.doctor.reader import Reader

_SUBJECT = "training runtime"


def runtime(reader: Reader, question: Question) -> Iterator[Finding]:
    """Tell whether the runtime is there and leaves a failed training to the launcher."""
    if not question.uses("trainjob"):
        return
    job = question.config.cluster.job
    found = reader.get(f"/apis/trainer.kubeflow.org/v1alpha1/clustertrainingruntimes/{job.runtime}")
    if found is None:
        yield Finding(_SUBJECT, Mark.BAD, f"no ClusterTrainingRuntime {job.runtime}", f"kubectl apply -f {OURS}")
        return
    problems = runtime_problems(found, job.grace_s)
    if problems:
        advice = f"take the project's own ({OURS}), or change it likewise"
        yield Finding(_SUBJECT, Mark.BAD, f"{job.runtime}: {'; '.join(problems)}", advice)
    else:
        yield Finding(_SUBJECT, Mark.GOOD, job.runtime)
