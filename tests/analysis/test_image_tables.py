"""Tables 2 to 5 and 9 come out as printed, where the paper's own rules are known (docs/image_networks.md)."""

import csv

import pytest

from octvideo.analysis.image_tables import IMAGE_TABLES
from octvideo.analysis.paper_tables import table_rows


@pytest.fixture(scope="module")
def printed(data):
    """Rows of the tables as transcribed from the paper, beside the folder of clips."""
    with (data.parent / "tables" / "complexity.csv").open() as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("table", [3, 4, 5, 9])
def test_the_papers_figures_are_those_of_the_transcription(printed, table):
    expected = [
        (
            row["model"],
            float(row["alpha"] or 0),
            int(row["input"]),
            float(row["gflops"]),
            float(row["params_m"]) if row["params_m"] else None,
        )
        for row in printed
        if row["table"] == str(table)
    ]
    ours = [(row.model, row.alpha, row.size, row.gflops, row.params_m) for row in IMAGE_TABLES[table]]
    assert sorted(ours, key=str) == sorted(expected, key=str)


@pytest.mark.full
def test_table_9():
    rows = table_rows(9)
    assert len(rows) == 33
    wrong = {(row["model"], row["alpha"]) for row in rows if round(row["gflops"], 3) != row["paper_gflops"]}
    assert wrong == {("resnet26", 0.0), ("resnet26", 0.25), ("resnext101_32x4d", 0.0), ("resnet200", 0.25)}
    assert all(row["gflops"] == pytest.approx(row["paper_gflops"], rel=1e-3) for row in rows)


@pytest.mark.parametrize("table", [2, 3, *(pytest.param(table, marks=pytest.mark.full) for table in (4, 5))])
def test_tables_2_to_5(table):
    digits = 3 if table == 3 else 1
    known = {
        ("mobilenet_v1_100", 0.5),  # 320.3
        ("mobilenet_v2_100", 0.0),  # 300.8: the paper that it is from says 300
        ("resnext101_32x4d_blstem_balanced", 0.5),  # 4.263
        ("resnext101_32x4d", 0.5),  # 4.0499: Table 9 has 4.050
    }
    for row in table_rows(table):
        key = row["model"], row["alpha"]
        same = round(row["gflops"], digits) == row["paper_gflops"]
        assert same or (key in known and row["gflops"] == pytest.approx(row["paper_gflops"], rel=0.016)), row
        if row["paper_params_m"]:
            assert round(row["params_m"], 1) == row["paper_params_m"], row
