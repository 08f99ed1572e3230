"""KFP shell of the report."""

from kfp import dsl

from components.images import CPU_IMAGE


@dsl.component(base_image=CPU_IMAGE, install_kfp_package=False)
def report(
    context: dict,
    settings: dict,
    stage: str,
    pretrain: dsl.Input[dsl.Model],
    sft: dsl.Input[dsl.Model],
    evaluations: list,
    report: dsl.Output[dsl.HTML],
    output: dsl.Output[dsl.Artifact],
):
    """Show on one page what the run has learnt, how, and from what.

    Args:
        context: Run context from open_run.
        settings: Settings of every stage by its name.
        stage: Name of this stage; its settings are a `ReportConfig`.
        pretrain: The pretrained model.
        sft: The tuned model.
        evaluations: Stage folders of the evaluations, in the order of the page.
        report: The page, self-contained.
        output: Where its stage folder lies.
    """
    import shutil
    from pathlib import Path

    from components.context import RunContext
    from components.report.config import ReportConfig
    from components.report.stage import REPORT_FILE, run_report
    from components.stage.pointer import folder_of, publish
    from components.stage.shell import reported_errors

    with reported_errors():
        finished = run_report(
            RunContext.model_validate(context),
            ReportConfig.model_validate(settings[stage]),
            pretrain=folder_of(pretrain),
            sft=folder_of(sft),
            evaluations=[Path(folder) for folder in evaluations],
        )
        publish(output, finished)
        shutil.copyfile(finished.folder / REPORT_FILE, report.path)
