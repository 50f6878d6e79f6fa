"""VIA's CSV, as VIA and others write it, gives what its JSON gives."""

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from vertinst.converters import via
from vertinst.converters._via_csv import is_csv, read_csv
from vertinst.converters._via_files import read_entries
from vertinst.errors import DataError
from vertinst.structures.conversion import ReadOptions

HEADER = "filename,file_size,file_attributes,region_count,region_id,region_shape_attributes,region_attributes"
RECT = {"name": "rect", "x": 10, "y": 10, "width": 20, "height": 10}


def cell(content, quote='""'):
    return '"' + json.dumps(content, ensure_ascii=False, separators=(",", ":")).replace('"', quote) + '"'


def row(name="a.png", size=5, film=None, count=1, number=0, shape=RECT, attributes=None):
    return ",".join([name, str(size), cell(film or {}), str(count), str(number), cell(shape), cell(attributes or {})])


def as_via_writes(films, header=HEADER):
    """Lines for films given as (name, size, film attributes, [(shape, attributes)])."""
    lines = [header]
    for name, size, film, regions in films:
        for number, (shape, attributes) in enumerate(regions):
            lines.append(row(name, size, film, len(regions), number, shape, attributes))
        if not regions:
            lines.append(row(name, size, film, 0, 0, {}, {}))
    return "\n".join(lines)


def save(folder, text, name="via.csv"):
    path = folder / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def one(folder, text):
    """The only film of a file in which everything can be read."""
    (entry,), skips = read_entries(save(folder, text))
    assert skips == []
    return entry


@pytest.mark.parametrize("header", [HEADER + "\n", "#" + HEADER + "\n", ""])
def test_both_generations_and_files_without_a_header(tmp_path, header):
    lines = [
        row(film={"caption": "+-08&$£*"}, count=2, attributes={"name": 'the "red" one', "note": "a, b; 'c'"}),
        row(film={"caption": "+-08&$£*"}, count=2, number=1, shape={"name": "point", "cx": 1, "cy": 2}),
        row("b.png", -1, count=0, shape={}),
    ]
    first, second = read_entries(save(tmp_path, header + "\n".join(lines)))[0]
    assert (first.name, first.attributes) == ("a.png", {"caption": "+-08&$£*"})
    assert [(r.number, r.shape["name"]) for r in first.regions] == [(0, "rect"), (1, "point")]
    assert first.regions[0].attributes == {"name": 'the "red" one', "note": "a, b; 'c'"}
    assert first.source == {"filename": "a.png", "size": 5}
    assert (second.name, second.regions, second.source["size"]) == ("b.png", (), -1)


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_byte_order_marks_and_line_ends(tmp_path, end, mark):
    entry = one(tmp_path, mark + end.join([HEADER, row(attributes={"label": "rod"}), "", row(number=1), ""]))
    assert len(entry.regions) == 2


@pytest.mark.parametrize(
    "name", ["a, b.png", "a,,b.png", ",a.png", 'a "x", b.png', "ä b#1.png", "椎骨 01.png", "./sub/a.png", "a;b\tc.png"]
)
def test_names_stand_as_they_are(tmp_path, name):
    assert one(tmp_path, f"{HEADER}\n{row(name)}").name == name


def test_a_name_that_a_spreadsheet_quoted(tmp_path):
    quoted = '"a, ""b"".png"'
    assert one(tmp_path, f"{HEADER}\n{row(quoted)}").name == 'a, "b".png'


@pytest.mark.parametrize("separator", [";", "\t"])
def test_cells_parted_as_spreadsheets_do(tmp_path, separator):
    cells = ["a,b.png", "5", cell({}), "1", "0", cell(RECT), cell({"label": "x;y,\tz"})]
    entry = one(tmp_path, "\n".join([HEADER.replace(",", separator), separator.join(cells)]))
    assert (entry.name, entry.regions[0].shape) == ("a,b.png", RECT)


def test_columns_in_another_order(tmp_path):
    header = "#filename,region_attributes,file_size,region_shape_attributes,file_attributes"
    line = ",".join(["a.png", cell({"label": "rod"}), "7", cell(RECT), cell({"view": "ap"})])
    entry = one(tmp_path, f"{header}\n{line}")
    assert (entry.attributes, entry.source["size"]) == ({"view": "ap"}, 7)
    assert (entry.regions[0].shape, entry.regions[0].attributes) == (RECT, {"label": "rod"})


def test_quotes_escaped_by_a_backslash(tmp_path):
    line = ",".join(["a,b.png", "5", '"{}"', "1", "0", cell(RECT, '\\"'), cell({"label": "rod"}, '\\"')])
    entry = one(tmp_path, f"{HEADER}\n{line}")
    assert (entry.name, entry.regions[0].shape, entry.regions[0].attributes) == ("a,b.png", RECT, {"label": "rod"})


@pytest.mark.parametrize("empty", ["", '""', '"{}"', "{}", "null", '"null"'])
def test_empty_cells(tmp_path, empty):
    line = ",".join(["a.png", "5", empty, "0", "0", empty, empty])
    entry = one(tmp_path, f"{HEADER}\n{line}")
    assert (entry.attributes, entry.regions) == ({}, ())


def test_regions_all_numbered_0_get_numbers_of_their_own(tmp_path):
    entry = one(tmp_path, "\n".join([HEADER, row(), row(attributes={"n": 1}), row(attributes={"n": 2})]))
    assert [(r.number, r.attributes) for r in entry.regions] == [(0, {}), (1, {"n": 1}), (2, {"n": 2})]


@pytest.mark.parametrize("blank", ["", "  ", ",,,,,,", " , ,,,,,"])
def test_blank_rows_are_nothing(tmp_path, blank):
    assert len(one(tmp_path, "\n".join([HEADER, blank, row(), blank])).regions) == 1


def test_lines_of_a_film_may_lie_apart_and_headers_within(tmp_path):
    lines = [HEADER, row(count=2), row("b.png"), HEADER, row(count=2, number=1)]
    entries, skips = read_entries(save(tmp_path, "\n".join(lines)))
    assert [(e.name, len(e.regions)) for e in entries] == [("a.png", 2), ("b.png", 1)]
    assert skips == []


def test_the_same_name_with_another_size_is_another_entry(tmp_path):
    entries, _ = read_entries(save(tmp_path, "\n".join([HEADER, row(), row(size=6)])))
    assert [e.source["size"] for e in entries] == [5, 6]


@pytest.mark.parametrize("size", ["", "12 kB", "1e5", "9" * 30])
def test_a_size_that_is_no_number_is_kept_as_text(tmp_path, size):
    assert one(tmp_path, f"{HEADER}\n{row(size=size)}").source["size"] == size


def test_a_region_without_a_shape_is_left_out_and_listed(tmp_path):
    Image.new("L", (80, 60)).save(tmp_path / "a.png")
    lines = [HEADER, row(count=2, attributes={"label": "rod"}), row(count=2, number=1, shape={}, attributes={"x": "y"})]
    dataset, (skip,) = via.read([save(tmp_path, "\n".join(lines))], tmp_path)
    assert (skip.region, skip.reason, skip.repaired) == (1, "has no shape", False)
    assert dataset.images[0].unread == ({"shape_attributes": {}, "region_attributes": {"x": "y"}},)


def test_fewer_regions_than_stated_are_reported(tmp_path):
    _, (skip,) = read_entries(save(tmp_path, f"{HEADER}\n{row(count=3)}"))
    assert (skip.image, skip.reason) == ("a.png", "should have 3 regions, has 1")


def test_lines_that_differ_about_their_film(tmp_path):
    lines = [HEADER, row(film={"view": "ap", "n": 1}, count=2), row(film={"view": "lateral"}, count=2, number=1)]
    (entry,), (skip,) = read_entries(save(tmp_path, "\n".join(lines)))
    assert entry.attributes == {"view": "lateral", "n": 1}
    assert "differ in its attributes" in skip.reason
    assert "lateral" not in skip.reason


@pytest.mark.parametrize(
    "line",
    [
        "a.png",
        "a.png,5,{},1,0,{}",
        'a.png,5,"{}",1,0,"{""name"":",""',
        'a.png,5,"{}",1,0,"[1, 2]","{}"',
        'a.png,5,"{}",1,0,"{""name"":""rect"",""x"":1","{}"',
        'a.png,5,"{}",1,0,"3","{}"',
        'a.png,5,"{}",1,0,"{}","{""a"":1,""a"":2}"',
        f'a.png,5,"{{}}",1,0,"{{""a"":{"[" * 200 + "]" * 200}}}","{{}}"',
        f'a.png,5,"{{}}",1,0,"{{""a"":{"[" * 100_000}","{{}}"',
        f'a.png,5,"{{}}",1,0,"{{""a"":{"9" * 10_000}}}","{{}}"',
        ' ,5,"{}",1,0,"{}","{}"',
        "\0",
        '"' * 9999,
        "a" + "," * 9999 + "{",
    ],
)
def test_damaged_lines_are_listed_and_the_others_kept(tmp_path, line):
    (entry,), (skip,) = read_entries(save(tmp_path, "\n".join([HEADER, line, row()])))
    assert (entry.name, entry.regions[0].shape["name"]) == ("a.png", "rect")
    kept = [r.shape for r in entry.regions[1:]]
    assert kept == ([{"name": "line 2 of a CSV", "text": line}] if line.startswith("a.png,5,") else [])
    assert (skip.image, skip.region, skip.repaired) == ("line 2", None, False)
    assert "not as VIA writes it" in skip.reason


def test_damaged_lines_of_a_film_stay_with_it(tmp_path):
    Image.new("L", (100, 80)).save(tmp_path / "a.png")
    lines = [HEADER, row(), row()[:60], row("gone.png")[:40]]
    dataset, skips = via.read([save(tmp_path, "\n".join(lines))], tmp_path, ReadOptions(class_map={"": "rod"}))
    (image,) = dataset.images
    assert len(image.annotations) == 1
    assert [r["shape_attributes"]["text"] for r in image.unread] == [lines[2]]
    assert [(s.image, s.region) for s in skips] == [("line 3", None), ("line 4", None), ("a.png", 1)]


def test_a_stray_quote_does_not_swallow_what_follows(tmp_path):
    entries, _ = read_entries(save(tmp_path, "\n".join([HEADER, row('"a.png'), row("b.png")])))
    assert [e.name for e in entries] == ['"a.png', "b.png"]


def test_characters_that_only_python_takes_for_line_ends(tmp_path):
    attributes = {"note": "a\u2028b\u0085c\x0bd"}
    line = row().rpartition(",")[0] + ',"' + '{""note"":""a\u2028b\u0085c\\u000bd""}"'
    assert one(tmp_path, f"{HEADER}\n{line}").regions[0].attributes == attributes


def test_cells_longer_than_pythons_reader_takes(tmp_path):
    shape = {"name": "polygon", "all_points_x": list(range(50_000)), "all_points_y": [1] * 50_000}
    assert one(tmp_path, f"{HEADER}\n{row(shape=shape)}").regions[0].shape == shape


@pytest.mark.parametrize("name", ["via.csv", "via.json", "annotations"])
def test_recognised_by_content(tmp_path, name):
    assert is_csv(save(tmp_path, f"{HEADER}\n{row()}", name))
    assert not is_csv(save(tmp_path, '{"filename,": 1}', name))
    assert not is_csv(save(tmp_path, "", name))
    for hostile in (" " * 60_000, ',1,"{' * 13_000, 'x,1,"{,1,1,' * 6_000, '{"a": [1, "' + ',,"{' * 15_000):
        assert not is_csv(save(tmp_path, hostile, name))
    assert not is_csv(tmp_path / "none")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("filename,file_size\n", "must have the column file_attributes, region_shape_attributes, region_attributes"),
        (f"{HEADER}\n".encode() + b"\xff\xfe\xfd", "must be UTF-8 text"),
        ("# Exported using VIA\n# Notes:\n# CSV_HEADER = metadata_id,file_list,flags\n", "is a CSV of VIA 3"),
        (HEADER, "no film in any of the files"),
    ],
)
def test_unusable_files(tmp_path, content, message):
    with pytest.raises(DataError, match=message) as error:
        via.read([save(tmp_path, content)], tmp_path)
    assert error.value.fix


def test_size_is_checked_before_reading(tmp_path, monkeypatch):
    path = save(tmp_path, f"{HEADER}\n{row()}")
    monkeypatch.setattr("vertinst.converters._via_csv.MAX_JSON_BYTES", 20)
    with pytest.raises(DataError, match="must be at most 20 bytes, got"):
        read_csv(path)


def test_missing_file(tmp_path):
    with pytest.raises(DataError, match="cannot be read"):
        read_csv(tmp_path / "none.csv")


def test_whole_way(tmp_path):
    Image.new("L", (80, 60)).save(tmp_path / "a, b.png")
    lines = [HEADER, row("a, b.png", film={"patient": "P1"}, attributes={"Klasse": {"Schraube": True}})]
    dataset, skips = via.read([save(tmp_path, "\n".join(lines))], tmp_path, ReadOptions())
    assert skips == ()
    (image,) = dataset.images
    assert (image.file_name, image.patient) == ("a, b.png", "P1")
    assert (image.annotations[0].category, image.annotations[0].outlines) == ("screw", (RECT,))


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
values = st.recursive(
    st.none() | st.booleans() | st.integers(-999, 999) | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=5,
)
attributes = st.dictionaries(texts, values, max_size=3)
numbers = st.integers(-50, 200) | st.floats(-50, 200)
shapes = st.lists(numbers, max_size=6).map(lambda v: {"name": "polygon", "all_points_x": v, "all_points_y": v[::-1]})
# VIA quotes no name: one that is quoted by itself cannot be told from a quoted one.
names = st.text(st.characters(exclude_characters='\r\n"', exclude_categories=["Cs"]), min_size=1, max_size=12).filter(
    lambda n: n.strip() and not n.strip().lstrip("# \t").startswith("filename")
)
films = st.lists(
    st.tuples(names, st.integers(-1, 9), attributes, st.lists(st.tuples(shapes, attributes), max_size=3)),
    max_size=4,
    unique_by=lambda film: film[0],
)


@settings(max_examples=120, deadline=None)
@given(found=films, generation=st.sampled_from(["", "#"]))
def test_csv_says_what_json_says(tmp_path_factory, found, generation):
    folder = tmp_path_factory.mktemp("csv")
    table = save(folder, as_via_writes(found, generation + HEADER))
    listed = {
        f"{number}": {
            "filename": name,
            "size": size,
            "file_attributes": film,
            "regions": [{"shape_attributes": s, "region_attributes": a} for s, a in regions],
        }
        for number, (name, size, film, regions) in enumerate(found)
    }
    expected, no_skips = read_entries(save(folder, json.dumps(listed), "via.json"))
    entries, skips = read_csv(table)
    assert no_skips == skips == []
    assert [(e.name, e.attributes, e.regions, e.source) for e in entries] == [
        (e.name, e.attributes, e.regions, e.source) for e in expected
    ]


@settings(max_examples=150, deadline=None)
@given(text=st.text(st.sampled_from('ab,"{}[]\\:1\n#; '), max_size=60))
def test_whatever_follows_a_header_is_read_or_listed(tmp_path_factory, text):
    path = save(tmp_path_factory.mktemp("csv"), f"{HEADER}\n{text}")
    entries, skips = read_csv(path)
    lines = [line for line in text.split("\n") if line.replace(",", "").strip()]
    assert len(entries) + len(skips) <= 2 * len(lines)
    assert bool(entries or skips) == bool(lines)


REAL = Path(__file__).parents[3] / "shared" / "data" / "via" / "ox-vgg_via"


@pytest.mark.skipif(not REAL.is_dir(), reason="VIA's own files are not in this checkout")
@pytest.mark.parametrize(
    ("table", "listed"),
    [
        ("via1_test_data.csv", "via1_test_data.json"),
        ("via2_sherlock.csv", "via2_sherlock_sizestr_subfolder.json"),
    ],
)
def test_vias_own_files(table, listed):
    one_way, other_way = (read_entries(REAL / name) for name in (table, listed))
    assert one_way[1] == other_way[1] == []
    assert [(e.name, e.attributes, e.regions) for e in one_way[0]] == [
        (e.name, e.attributes, e.regions) for e in other_way[0]
    ]
