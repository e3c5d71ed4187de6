"""The paper's tables with ours beside them: whose figure is whose, and commands that can be run."""

import io
import json
import shlex
from pathlib import Path

import click
import numpy as np
import pytest
import typer.main
from fake_runs import random_answers, write_run
from rich.console import Console

from deit_transfer.cli.app import app
from deit_transfer.cli.options import TrainingFlags
from deit_transfer.errors import UsageError
from deit_transfer.paper.evidence import collect_evidence
from deit_transfer.paper.screen import command_lines, filled_screen, table_list
from deit_transfer.paper.tables import draw_figure, list_tables, paper_table
from deit_transfer.paper.values import TABLES
from deit_transfer.training.choose_recipe import COMMANDS, choose_recipe

RUNS = Path("runs")
CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
FULL = 1000 * 50_000  # images that the published recipe sees on CIFAR-10


@pytest.fixture(autouse=True)
def at_an_empty_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def column(table: str, row: str, title: str) -> dict | None:
    facts = paper_table(table, runs=RUNS)
    found = next(one for one in facts["rows"] if one["name"] == row)
    return found["here"][facts["columns"].index(title)]


def label_of(table: str, cell: dict) -> str:
    labels = paper_table(table, runs=RUNS)["labels"]
    return next(one["text"] for one in labels if one["mark"] == cell["mark"])


def write_tuned(name: str, *, seed: int = 0, **facts: object) -> Path:
    settings = {"run.seed": seed, **facts.pop("settings", {})}
    return write_run(
        RUNS / name,
        "paper/finetune/cifar10",
        settings=settings,
        class_names=CIFAR10,
        num_test_images=10_000,
        **facts,
    )


def test_the_papers_numbers_add_up() -> None:
    sums = {
        ("table2", "student"): 413.3,
        ("table3", "B at 384"): 503.4,
        ("table5", "ImageNet"): 1996.4,
        ("table5", "ReaL"): 2050.0,
        ("table5", "V2"): 1514.1,
        ("table6", "Cars"): 466.9,
        ("table7", "at 224"): 880.8,
        ("table8", "train"): 2_094_104,
    }
    for (table, title), total in sums.items():
        values = [v for v in TABLES[table].column(title).values() if v is not None]
        assert sum(values) == pytest.approx(total), (table, title)
    rates = np.array([row for name, row in TABLES["table4"].rows.items() if name != "ground truth"])
    assert (rates == rates.T).all()
    assert not rates.diagonal().any()


@pytest.mark.parametrize("table", list(TABLES))
def test_every_command_is_one_that_the_program_takes(table: str) -> None:
    root = typer.main.get_command(app)
    write_run(
        RUNS / "micro",
        "finetune/folder",
        settings={
            "data.dataset": "cifar10",
            "model.name": "deit_micro",
            "model.pretrained": "x.pth",
        },
    )
    for task in paper_table(table, runs=RUNS)["commands"]:
        for command in task["commands"]:
            words = shlex.split(command.replace('"$d"', "cars").replace("; done", ""))
            if words[0] == "mkdir":
                continue
            if words[0] == "for":
                words = words[words.index("do") + 1 :]
            program, *words = words[: words.index(">")] if ">" in words else words
            assert program == "deit-transfer"
            check_command(root, words)


def check_command(root: click.Command, words: list[str]) -> None:
    command = root
    named = []
    while isinstance(command, click.Group):
        named.append(words[0])
        command, words = command.commands[words[0]], words[1:]
    given = command.make_context("deit-transfer", list(words)).params
    for mode, name in COMMANDS.items():
        if " ".join(named) == name:
            flags = TrainingFlags(**{k: given[k] for k in TrainingFlags.__dataclass_fields__})
            choose_recipe(
                mode,
                given["dataset"],
                recipe_name=flags.recipe,
                start=given.get("start"),
                overrides=flags.overrides(),
            )


def test_what_is_printed_is_the_command_broken_in_lines() -> None:
    facts = paper_table("table6", runs=Path("a folder/runs"))
    for task in facts["commands"]:
        lines = command_lines(task["commands"], width=76)
        assert max(map(len, lines)) <= 76
        joined = "\n".join(lines).replace("\\\n", "")
        assert shlex.split(joined) == shlex.split(" && ".join(task["commands"]))


@pytest.mark.parametrize("table", list(TABLES))
def test_tables_fit_80_columns_and_say_whose_each_line_is(table: str) -> None:
    write_tuned("full", images_seen=FULL, top1=98.76)
    shown = rendered(filled_screen(paper_table(table, runs=RUNS)))
    assert max(map(len, shown.splitlines())) <= 80
    assert shown.isascii()
    assert "paper: Touvron et al., ICML 2021" in shown
    assert "here:  this machine, 1 finished run in runs" in shown
    assert " paper " in shown
    assert " here " in shown


def test_a_measurement_makes_its_folder_first() -> None:
    def first_command() -> str:
        return paper_table("table1", runs=RUNS)["commands"][0]["commands"][0]

    assert first_command() == "mkdir -p runs"
    RUNS.mkdir()
    assert first_command().endswith("--json > runs/throughput-deit_tiny_patch16_224.json")


def test_the_list_names_every_table() -> None:
    shown = rendered(table_list(list_tables()))
    assert all(f" {table} " in shown for table in TABLES)
    assert max(map(len, shown.splitlines())) <= 80


def test_seeds_of_a_full_run_fill_a_cell_without_a_warning() -> None:
    for seed, top1 in enumerate((98.0, 98.5, 99.3)):
        write_tuned(f"seed{seed}", seed=seed, images_seen=FULL, top1=top1)
    write_tuned("short", images_seen=20_000, top1=60.0, settings={"schedule.epochs": 10})
    cell = column("table6", "DeiT-B", "CIFAR-10")
    assert cell["value"] == pytest.approx(98.6)
    assert not cell["short"]
    assert len(cell["runs"]) == 3
    label = label_of("table6", cell)
    assert "mean of 3 seeds" in label
    assert "100% of the paper's run" in label


@pytest.mark.parametrize(
    ("settings", "images_seen"),
    [({"data.train_limit": 5000}, FULL), ({"data.fraction": 0.1}, FULL), ({}, FULL // 3)],
)
def test_a_short_run_is_never_without_its_warning(settings: dict, images_seen: int) -> None:
    write_tuned("some", settings=settings, images_seen=images_seen, top1=97.0)
    cell = column("table6", "DeiT-B", "CIFAR-10")
    assert cell["short"]
    shown = rendered(filled_screen(paper_table("table6", runs=RUNS)))
    assert "97.0a*" in shown
    assert "no reproduction" in " ".join(shown.split())


def test_a_folder_is_known_as_cifar10_by_its_classes_alone() -> None:
    tree = {"data.dataset": "/somewhere/tree"}
    write_tuned("mine", settings=tree, images_seen=FULL, top1=97.0)
    cell = column("table6", "DeiT-B", "CIFAR-10")
    assert cell["value"] == 97.0
    assert "images of the folder tree" in label_of("table6", cell)
    (RUNS / "mine" / "classes.json").write_text(json.dumps({"class_names": list("abcdefghij")}))
    assert column("table6", "DeiT-B", "CIFAR-10")["value"] is None


def test_another_network_has_a_row_of_its_own() -> None:
    write_tuned("tiny", settings={"model.name": "deit_tiny_patch16_224"}, top1=96.0)
    facts = paper_table("table6", runs=RUNS)
    row = next(one for one in facts["rows"] if one["name"] == "DeiT-Ti")
    assert row["paper"] is None
    task = next(one for one in facts["commands"] if one["cells"][0]["row"] == "DeiT-Ti")
    assert task["commands"][0].startswith("for d in cifar100 flowers102 cars inat2018 inat2019; do")
    assert column("table6", "DeiT-B", "CIFAR-10")["value"] is None


def test_unfinished_and_damaged_runs_are_left_out() -> None:
    write_tuned("whole", images_seen=FULL, top1=97.0)
    (write_tuned("unfinished", top1=12.0) / "result.json").unlink()
    (write_tuned("damaged", top1=13.0) / "recipe.toml").write_text("mode = 'nonsense'")
    facts = paper_table("table6", runs=RUNS)
    assert facts["num_runs"] == 1
    assert any("damaged is left out" in note for note in facts["notes"])


def write_trio() -> dict[str, object]:
    """Write a teacher, a plain and a distilled run; return their answers."""
    answers = {
        "teacher": random_answers(40, seed=1),
        "plain": random_answers(40, seed=2),
        "student": random_answers(40, seed=3, distilled=True),
    }
    taught = {
        "distill.teacher": str((RUNS / "teacher").resolve()),
        "distill.kind": "hard",
        "model.name": "deit_micro_distilled",
    }
    photos = {"data.dataset": "photos", "model.resolution": 32}
    for name, recipe, settings in (
        ("teacher", "teacher/folder", {}),
        ("plain", "scratch/folder", {"model.name": "deit_micro"}),
        ("student", "scratch/folder", taught),
    ):
        heads = {"heads": {"class": 40.0, "distill": 41.0, "joint": 42.0}}
        write_run(
            RUNS / name,
            recipe,
            settings=photos | settings,
            answers=answers[name],
            num_test_images=40,
            **(heads if name == "student" else {}),
        )
    return answers


def test_table4_is_what_a_direct_count_gives() -> None:
    answers = write_trio()

    def softmax(logits: np.ndarray) -> np.ndarray:
        powers = np.exp(logits)
        return powers / powers.sum(axis=1, keepdims=True)

    def by_id(name: str, scores: np.ndarray) -> dict[str, int]:
        return dict(zip(answers[name].ids.tolist(), scores.argmax(1).tolist(), strict=True))

    student = answers["student"]
    both = softmax(student.class_logits) + softmax(student.distill_logits)
    decided = {
        "convnet": by_id("teacher", answers["teacher"].class_logits),
        "DeiT": by_id("plain", answers["plain"].class_logits),
        "distilled, class": by_id("student", student.class_logits),
        "distilled, distill": by_id("student", student.distill_logits),
        "distilled, both": by_id("student", both),
        "ground truth": {f"test/{n:04d}.png": n % 3 for n in range(40)},
    }
    for row in TABLES["table4"].rows:
        for title in TABLES["table4"].columns:
            differ = [decided[row][i] != decided[title][i] for i in decided["ground truth"]]
            cell = column("table4", row, title)
            assert cell["value"] == pytest.approx(np.mean(differ))
            assert cell["short"]


def test_table4_names_what_is_missing() -> None:
    write_trio()
    for file in (RUNS / "plain").iterdir():
        file.unlink()
    assert column("table4", "convnet", "distilled, both")["value"] is not None
    cell = column("table4", "convnet", "DeiT")
    facts = paper_table("table4", runs=RUNS)
    task = facts["commands"][cell["fill"] - 1]
    assert "scratch photos --model deit_micro --resolution 32" in task["commands"][0]


def test_table3_has_the_heads_of_a_network_of_ours() -> None:
    write_trio()
    assert column("table3", "distilled, distillation embedding", "here")["value"] == 41.0
    assert column("table3", "no distillation", "here")["value"] == 50.0
    assert column("table3", "no distillation", "B 224")["value"] is None


def test_table7_takes_the_runs_that_have_a_rows_settings() -> None:
    for name in ("default", "no_mixup", "dropout"):
        settings = {"data.dataset": "photos", "model.name": "deit_micro"}
        write_run(RUNS / name, f"ablation/{name}", settings=settings, top1=len(name))
    found = {
        row["name"]: row["here"][0]["value"]
        for row in paper_table("table7", runs=RUNS)["rows"]
        if row["here"][0]["value"] is not None
    }
    assert found == {"default": 7, "SGD in fine-tuning": 7, "no Mixup": 8, "dropout": 7}


def test_kept_measurements_fill_speeds_and_scores() -> None:
    RUNS.mkdir()
    timed = {
        "model": "deit_tiny_patch16_224",
        "resolution": 224,
        "images_per_second": 12.5,
        "precision": "fp32",
        "batch_size": 8,
        "repeats": 30,
        "params": 5_717_416,
    }
    (RUNS / "speed.json").write_text(json.dumps({"models": [timed], "hardware": "a toaster"}))
    scored = {"run": "deit_tiny_patch16_224", "num_test_images": 50_000}
    sets = [{**scored, "dataset": "imagenet", "top1": 72.1}]
    sets += [{**scored, "dataset": "imagenet-v2", "top1": 60.1}]
    (RUNS / "several.json").write_text(json.dumps({"run": "x", "datasets": sets}))
    alone = {**scored, "run": "deit_base_patch16_224", "dataset": "imagenet-real", "top1": 86.6}
    (RUNS / "one.json").write_text(json.dumps(alone))
    (RUNS / "empty.json").touch()
    (RUNS / "other.json").write_text("[1, 2]")
    cell = column("table5", "DeiT-Ti", "im/s")
    assert cell["value"] == 12.5
    assert "a toaster" in label_of("table5", cell)
    assert "another machine than the paper's" in label_of("table5", cell)
    assert column("table1", "DeiT-Ti", "im/s")["value"] == 12.5
    assert column("table5", "DeiT-Ti", "ImageNet")["value"] == 72.1
    assert column("table5", "DeiT-Ti", "V2")["value"] == 60.1
    assert column("table5", "DeiT-Ti", "ReaL")["value"] is None
    assert column("table5", "DeiT-B", "ReaL")["value"] == 86.6


def test_table9_is_what_the_recipe_says() -> None:
    rows = paper_table("table9", runs=RUNS)["rows"]
    assert [row["here"][0]["value"] for row in rows] == [row["paper"][0] for row in rows]


@pytest.mark.parametrize("figure", ["figure1", "figure3"])
def test_figures_are_drawn(figure: str) -> None:
    write_trio()
    draw_figure(paper_table(figure, runs=RUNS), Path("figure.png"))
    assert Path("figure.png").read_bytes().startswith(b"\x89PNG")


def test_what_is_no_table_and_no_figure_is_refused() -> None:
    with pytest.raises(UsageError, match="table10"):
        paper_table("table10", runs=RUNS)
    with pytest.raises(UsageError, match="is a table"):
        draw_figure(paper_table("table1", runs=RUNS), Path("x.png"))


def rendered(screen: object) -> str:
    console = Console(file=io.StringIO(), width=80, no_color=True)
    console.print(screen)
    return console.file.getvalue()


def test_only_plain_scores_on_test_stand_beside_the_papers(tmp_path: Path) -> None:
    score = {"run": "deit_tiny_patch16_224", "dataset": "imagenet", "top1": 72.0}
    told = [score, {"split": "test", "views": "one"}, {"split": "val"}, {"views": "flip"}]
    for number, change in enumerate(told):
        (tmp_path / f"{number}.json").write_text(json.dumps(score | change))
    found = [Path(one["file"]).stem for one in collect_evidence(tmp_path).scores]
    assert found == ["0", "1"]


def test_runs_on_other_data_are_said_to_have_no_place() -> None:
    write_tuned("tuned")
    for name in ("one", "two"):
        write_run(RUNS / name, "finetune/folder", settings={"data.dataset": "photos"})
    said = "not shown: 2 runs on photos"
    for table in ("table5", "table6"):
        notes = paper_table(table, runs=RUNS)["notes"]
        assert sum(note.startswith(said) for note in notes) == 1
        assert any("deit-transfer runs list runs" in note for note in notes)
    # a table without runs, and one that has a place for those of any dataset
    assert not any(said in note for note in paper_table("table9", runs=RUNS)["notes"])
    for name, epochs in (("short", 2), ("long", 4)):
        settings = {"data.dataset": "photos", "schedule.epochs": epochs}
        write_run(RUNS / "scratch" / name, "scratch/folder", settings=settings)
    assert not any("on photos" in note and "not shown" in note for note in figure3_notes())


def figure3_notes() -> list[str]:
    return paper_table("figure3", runs=RUNS)["notes"]


def test_what_is_no_table_is_answered_in_short() -> None:
    with pytest.raises(UsageError, match="tables 1-9, and figures 1 and 3") as caught:
        paper_table("table12", runs=RUNS)
    assert len(caught.value.message) < 100
