"""`export`, `card`, `push` and `runs clean` as a person types them."""

import json
from pathlib import Path

from program import Ended, run_program

from deit_transfer.files import write_text_atomic


def test_an_export_prints_one_object(workplace: Path, finished: Ended) -> None:
    ended = run_program(
        "export", "runs/first", "--to=timm", "--out=out/a", "--json", folder=workplace
    )
    assert ended.code == 0, ended.err
    facts = json.loads(ended.out)
    assert facts["equal_decisions"] == facts["num_images"] > 0
    assert facts["top1_before"] == facts["top1_after"]
    assert sorted(facts["latency_after"]) == ["batch_1_ms", "batch_32_ms"]
    assert (workplace / "out/a/config.json").is_file()
    again = run_program("export", "runs/first", "--to=timm", "--out=out/a", folder=workplace)
    assert again.code == 2
    assert "out/a exists already" in again.said


def test_an_export_shows_a_table_and_how_to_open_it(workplace: Path, finished: Ended) -> None:
    ended = run_program("export", "runs/first", "--to=deit", "--out=first.pth", folder=workplace)
    assert ended.code == 0, ended.err
    for part in ("Export to deit", "top-1", "batch 32", "To open it, in Python:", "torch.load("):
        assert part in ended.out


def test_the_card_goes_to_stdout_or_a_file(workplace: Path, finished: Ended) -> None:
    shown = run_program("card", "runs/first", folder=workplace)
    assert shown.out.startswith("---\nlibrary_name: timm\n")
    assert "| cat |" in shown.out
    for _ in range(2):  # one of ours is replaced
        assert run_program("card", "runs/first", "--out=card.md", folder=workplace).code == 0
    assert (workplace / "card.md").read_text() == shown.out
    write_text_atomic(workplace / "mine.md", "my notes")
    refused = run_program("card", "runs/first", "--out=mine.md", folder=workplace)
    assert refused.code == 2
    assert "not a model card of this program" in refused.said


def test_a_dry_push_writes_the_folder(workplace: Path, finished: Ended) -> None:
    command = ("push", "runs/first", "me/first", "--dry-run", "--json")
    ended = run_program(*command, folder=workplace)
    facts = json.loads(ended.out)
    assert facts["address"] is None
    names = ["README.md", "config.json", "confusion.png", "model.safetensors"]
    assert sorted(path.name for path in (workplace / facts["folder"]).iterdir()) == names
    assert (
        "![Confusion matrix](confusion.png)"
        in (workplace / facts["folder"] / "README.md").read_text()
    )


def test_clean_tells_what_would_go(workplace: Path, finished: Ended) -> None:
    ended = run_program("runs", "clean", "runs", "--dry-run", folder=workplace)
    assert ended.code == 0
    assert "would go" in ended.out
    assert (workplace / "runs/first/checkpoints").is_dir()
