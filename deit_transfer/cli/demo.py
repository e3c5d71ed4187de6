"""`demo`: a comparison in minutes, without a download."""

from deit_transfer.cli.console import Output
from deit_transfer.cli.options import DEFAULT_OUT, JsonFlag, OutOption, QuietFlag, SeedsOption

NEXT_STEPS = """
Next, on your own images (a folder with one folder per class):
  deit-transfer data check PHOTOS
  deit-transfer plan finetune PHOTOS --from imagenet
  deit-transfer finetune PHOTOS --from imagenet
  deit-transfer compare PHOTOS --from imagenet --seeds 3
"""


def demo(
    seeds: SeedsOption = 5,
    out: OutOption = DEFAULT_OUT,
    as_json: JsonFlag = False,
    quiet: QuietFlag = False,
) -> None:
    """See what pretraining buys, on handwritten digits: offline, minutes on a CPU."""
    from deit_transfer.cli.screens import TrainingScreen
    from deit_transfer.experiments.demo import demo as run_demo
    from deit_transfer.report.comparison import comparison_table

    output = Output(as_json=as_json, quiet=quiet)
    with TrainingScreen(output, several=True) as screen:
        comparison = run_demo(out=out, seeds=seeds, callbacks=screen)
    folder = f"Plot and report: {comparison['folder']}"
    output.finish(comparison, "", comparison_table(comparison), folder, NEXT_STEPS)
