"""The official CSV files of Kinetics, as they are."""

import pytest

from octvideo.data.annotations import Segment, clip_name, read_annotations
from octvideo.data.index import read_classes
from octvideo.errors import UserError

HEADER = "label,youtube_id,time_start,time_end,split"


def write(folder, *lines):
    file = folder / "k.csv"
    file.write_text("\n".join(lines) + "\n")
    return file


@pytest.mark.parametrize(("name", "rows"), [("400", 19906), ("600", 30000)])
def test_official_validation_files(data, name, rows):
    segments = read_annotations(data / "labels" / f"kinetics-{name}_val.csv")
    assert len(segments) == rows and {segment.split for segment in segments} == {"val"}
    assert {segment.label for segment in segments} == set(read_classes(f"kinetics{name}_classes.txt"))
    assert {segment.end - segment.start for segment in segments} == {10}
    assert len({clip_name(segment) for segment in segments}) == rows, "names tell all segments apart"
    assert any(segment.youtube_id.startswith("-") for segment in segments)


def test_quotes_and_commas_of_the_official_files(data):
    segments = {s.youtube_id: s for s in read_annotations(data / "labels" / "kinetics-400_val.csv")}
    assert segments["--nQbRBEz2s"] == Segment("air drumming", "--nQbRBEz2s", 104, 114, "val")
    assert segments["-huT_p-r_zA"].label == "massaging person's head"
    assert clip_name(segments["-huT_p-r_zA"]) == "-huT_p-r_zA_001989_001999.mp4"
    repeated = [s for s in read_annotations(data / "labels" / "kinetics-600_val.csv") if s.youtube_id == "xnC3nngvLCo"]
    assert [(s.label, s.start) for s in repeated] == [("cracking knuckles", 7), ("cracking neck", 83)]


@pytest.mark.parametrize("name", ["400", "600"])
def test_test_files_have_no_labels(data, name):
    segments = read_annotations(data / "labels" / f"kinetics-{name}_test_sample.csv")
    assert len(segments) == 40 and {(s.label, s.split) for s in segments} == {(None, "test")}


def test_other_headers(tmp_path):
    expected = [Segment("a, b (c)", "-x_0", 1.5, 11.5, "val")]
    assert read_annotations(write(tmp_path, HEADER, '"a, b (c)",-x_0,1.5,11.5,validate', "")) == expected
    file = tmp_path / "other.csv"
    file.write_bytes(
        b'\xef\xbb\xbfsplit,time_start,time_end,youtube_id,is_cc,label\r\nval,1.5,11.5,-x_0,0,"a, b (c)"\r\n'
    )
    assert read_annotations(file) == expected
    assert clip_name(expected[0]) == "-x_0_000001_000011.mp4"


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("a,x,1,11", "4 fields, but the first line has 5"),
        ("a, b,x,1,11,val", "6 fields.*a comma in a label needs quotes"),
        ("a,x,one,11,val", "time_start 'one' is not a number"),
        ("a,x,nan,11,val", "time_start 'nan'"),
        ("a,x,11,1,val", "expected 0 <= time_start < time_end"),
        ("a,x,1,1e9,val", "below 1,000,000"),
        ("a,#NAME?,1,11,val", "'#NAME\\?' is not a video id"),
        ("a,../x,1,11,val", "is not a video id"),
        ("a,,1,11,val", "is not a video id"),
        ("a,x,1,11,holdout", "split 'holdout'"),
        (",x,1,11,val", "some rows have a label and some have none"),
        ('"a,x,1,11,val', "unexpected end of data"),
    ],
)
def test_malformed_rows_name_the_line(tmp_path, row, message):
    with pytest.raises(UserError, match=f"k.csv:3: .*{message}"):
        read_annotations(write(tmp_path, HEADER, "a,y,0,10,val", row))


def test_files_that_are_no_annotations(tmp_path):
    with pytest.raises(UserError, match="k.csv:1: no column split and no column time_end.*expected `label,"):
        read_annotations(write(tmp_path, "label,youtube_id,time_start", "a,x,1"))
    with pytest.raises(UserError, match="k.csv:1: no column"):
        read_annotations(write(tmp_path, "a.mp4 0"))
    with pytest.raises(UserError, match="k.csv: no rows"):
        read_annotations(write(tmp_path, HEADER))
    with pytest.raises(UserError, match="absent.csv: no such annotation file"):
        read_annotations(tmp_path / "absent.csv")
    (tmp_path / "latin.csv").write_bytes(f"{HEADER}\nä,x,1,2,val\n".encode("latin-1"))
    with pytest.raises(UserError, match="latin.csv: not UTF-8"):
        read_annotations(tmp_path / "latin.csv")
