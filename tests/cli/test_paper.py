"""`paper`, `throughput` and `runs compare` as a person types them."""

import json
from pathlib import Path
from shutil import copytree

import pytest
from program import Ended, run_program


def plain(text: str) -> bool:
    return text.isascii() and max(map(len, text.splitlines())) <= 80


def test_paper_lists_its_tables(workplace: Path) -> None:
    ended = run_program("paper", "--json", folder=workplace)
    tables = [one["table"] for one in ended.json["tables"]]
    assert tables == [*(f"table{number}" for number in range(1, 10)), "figure1", "figure3"]
    assert "table6" in run_program("paper", folder=workplace).out


@pytest.mark.parametrize("table", ["table4", "table5", "table6"])
def test_a_table_of_the_paper_stands_beside_our_runs(
    workplace: Path, finished: Ended, tmp_path: Path, table: str
) -> None:
    # other tests add runs beside the first, and what they fill needs no command
    runs = copytree(workplace / "runs" / "first", tmp_path / "runs" / "first").parent
    ended = run_program("paper", table, "--runs", str(runs), folder=workplace)
    assert ended.code == 0, ended.err
    assert plain(ended.out)
    assert "finished run" in ended.out
    assert "deit-transfer" in ended.out
    facts = run_program("paper", table, "--runs", str(runs), "--json", folder=workplace).json
    assert facts["num_runs"] == 1
    assert facts["table"] == table
    assert facts["commands"]


def test_paper_refuses_what_it_does_not_know(workplace: Path) -> None:
    ended = run_program("paper", "table66", folder=workplace)
    assert ended.code == 2
    assert "tables 1-9, and figures 1 and 3, as in table6" in ended.said
    assert run_program("paper", "--out", "x.png", folder=workplace).code == 2
    assert run_program("paper", "table1", "--out", "x.png", folder=workplace).code == 2


def test_throughput_times_networks_and_runs(workplace: Path, finished: Ended) -> None:
    ended = run_program(
        *("throughput", "deit_micro", "runs/first", "--repeats=2", "--batch-size=2"),
        *("--device=cpu", "--against=runs", "--out=speed.png", "--json"),
        folder=workplace,
    )
    assert ended.code == 0, ended.err
    by_name, run = ended.json["models"]
    keys = {"model", "images_per_second", "batch_size", "precision", "params", "gflops"}
    assert by_name.keys() >= {*keys, "peak_memory_mb"}
    assert (by_name["resolution"], run["resolution"]) == (32, 16)
    assert run["run"] == "runs/first"
    assert run["accuracies"][0]["top1"] == finished.json["top1"]
    assert (workplace / "speed.png").is_file()


def test_throughput_shows_a_table_and_keeps_for_the_paper(workplace: Path) -> None:
    arguments = ("throughput", "deit_micro", "--repeats=1", "--resolution=16", "--device=cpu")
    ended = run_program(*arguments, folder=workplace)
    assert ended.code == 0, ended.err
    assert plain(ended.out)
    assert "deit_micro" in ended.out
    assert "the fastest of a few that memory holds" in ended.out
    assert run_program("throughput", "deit_micro", "--out=x.png", folder=workplace).code == 2


def test_runs_compare_finds_no_difference_between_a_run_and_itself(
    workplace: Path, finished: Ended
) -> None:
    ended = run_program("runs", "compare", "runs/first", "runs/first", folder=workplace)
    assert ended.code == 0, ended.err
    assert plain(ended.out)
    assert "differ in no setting" in ended.out
    facts = run_program(
        "runs", "compare", "runs/first", "runs/first", "--json", folder=workplace
    ).json
    assert (facts["difference"], facts["p_value"]) == (0, 1)
    assert facts["num_images"] == finished.json["num_test_images"]
    assert json.dumps(facts)
    assert run_program("runs", "compare", "runs/first", "photos", folder=workplace).code == 3
