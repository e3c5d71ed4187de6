"""The exact commands that fill the cells of the paper's tables."""

import shlex
from pathlib import Path

from deit_transfer.paper.evidence import DATASETS, FoundRun
from deit_transfer.paper.values import NETWORKS, TABLES
from deit_transfer.runs.folder import RunFolder

DEFAULT_OUT = Path("runs")
TEACHER = "regnety_160"
Commands = tuple[str, ...]

LONG = ", 1000 epochs"
# the recipes that pretrain each row of Table 5 on ImageNet
PRETRAIN = {
    "DeiT-Ti": "deit_tiny",
    "DeiT-S": "deit_small",
    "DeiT-B": "deit_base",
    "DeiT-Ti distilled": "deit_tiny_distilled",
    "DeiT-S distilled": "deit_small_distilled",
    "DeiT-B distilled": "deit_base_distilled",
    f"DeiT-Ti distilled{LONG}": "deit_tiny_distilled_1000",
    f"DeiT-S distilled{LONG}": "deit_small_distilled_1000",
    f"DeiT-B distilled{LONG}": "deit_base_distilled_1000",
}


class Writer:
    """Writes commands for one folder of runs.

    Args:
        out: The folder; commands name it where it is not the default one.
    """

    def __init__(self, out: Path) -> None:
        self.out = out
        self._place = "" if out == DEFAULT_OUT else f" --out {shlex.quote(str(out))}"

    def train(self, words: str, *, name: str = "") -> str:
        """Return a training command that writes into the folder, under a name where given."""
        named = f" --name {name}" if name else ""
        return f"deit-transfer {words}{named}{self._place}"

    def folder(self, name: str) -> str:
        """Return the path of a run of this name."""
        return shlex.quote(str(self.out / name))

    def once(self, words: str, *, name: str) -> Commands:
        """Return a training command for a run of this name; none where it is there already."""
        done = RunFolder(self.out / name).is_run
        return () if done else (self.train(words, name=name),)

    def throughput(self, row: str) -> Commands:
        """Return the command that times a network of the paper and keeps what it prints."""
        model = NETWORKS[row].model
        size = TABLES["table5"].column("size").get(row)
        pixels = f" --resolution {size}" if size and not model.startswith("deit") else ""
        kept = self.folder(f"throughput-{model}.json")
        return (*self._folder_made(), f"deit-transfer throughput {model}{pixels} --json > {kept}")

    def evaluate(self, subject: str, *, name: str, datasets: str) -> Commands:
        """Return the command that scores a network or run and keeps what it prints."""
        kept = self.folder(f"evaluate-{name}.json")
        return (
            *self._folder_made(),
            f"deit-transfer evaluate {subject} {datasets} --json > {kept}",
        )

    def distilled_at_384(self, datasets: str) -> Commands:
        """Return the commands for DeiT-B distilled at 384, whose weights are not public."""
        first, last = "table5-deit_base_distilled", "table5-deit_base_distilled_384"
        larger = (
            "finetune imagenet --recipe paper/finetune/imagenet_384 "
            f"--model deit_base_distilled_patch16_384 --from {self.folder(first)} "
            f"--teacher {TEACHER}"
        )
        return (
            *self.once("pretrain imagenet --recipe pretrain/deit_base_distilled", name=first),
            *self.once(larger, name=last),
            *self.evaluate(self.folder(last), name=last, datasets=datasets),
        )

    def finetune(self, row: str, dataset: str) -> Commands:
        """Return the commands that fine-tune a row of Table 6 as published, its teacher first."""
        network, catalog = NETWORKS[row], DATASETS[dataset][1]
        at_384 = "384" in row
        recipe = f"paper/finetune/{catalog}" + ("_384" if at_384 else "")
        words = f"finetune {catalog} --recipe {recipe}"
        if "distilled" not in row:
            return (self.train(words),)
        teacher = f"teacher-{catalog}" + ("-384" if at_384 else "")
        pixels = " --resolution 384" if at_384 else ""
        return (
            *self.once(f"teacher fit {catalog} --model {TEACHER}{pixels}", name=teacher),
            self.train(f"{words} --model {network.model} --teacher {self.folder(teacher)}"),
        )

    def scratch(self, row: str, dataset: str) -> Commands:
        """Return the commands of section 5.4: the dataset alone, its teacher first."""
        network, catalog = NETWORKS[row], DATASETS[dataset][1]
        words = f"scratch {catalog} --recipe paper/scratch/{catalog} --model {network.model}"
        if "distilled" not in row:
            return (self.train(words),)
        teacher = f"teacher-scratch-{catalog}"
        return (
            *self.once(
                f"scratch {catalog} --recipe paper/scratch/{catalog} --model {TEACHER}",
                name=teacher,
            ),
            self.train(f"{words} --teacher {self.folder(teacher)}"),
        )

    def rest_of_row(self, run: FoundRun, datasets: list[str]) -> Commands:
        """Return one command that does on further datasets what a run did on its own."""
        names = " ".join(DATASETS[dataset][1] for dataset in datasets)
        recipe = run.recipe
        start = (
            f" --from {shlex.quote(recipe.model.pretrained)}" if recipe.mode == "finetune" else ""
        )
        words = f'{recipe.mode} "$d"{start} --model {recipe.model.name}'
        words += f" --resolution {run.resolution}"
        return (f"for d in {names}; do {self.train(words)}; done",)

    def _folder_made(self) -> Commands:
        """Return what makes the folder, which a shell does not do for a file it is to write."""
        return () if self.out.is_dir() else (f"mkdir -p {shlex.quote(str(self.out))}",)
