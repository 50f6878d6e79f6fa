import errno
import json

import pytest

from vertinst.errors import DataError, OutputExistsError, VertinstError
from vertinst.files import inside, prepare_folder, read_json, write_json, write_text, write_with


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    target = tmp_path / "out.json"
    write_json(target, {"old": True})

    def full(path):
        path.write_text("half")
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(VertinstError, match="cannot be written: No space left on device"):
        write_with(target, full)
    assert read_json(target) == {"old": True}
    assert [p.name for p in tmp_path.iterdir()] == ["out.json"]


def test_an_output_below_a_file_is_refused_with_the_reason(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(VertinstError, match=r"cannot be written: (File exists|Not a directory)"):
        write_text(tmp_path / "file" / "out.txt", "x")


def test_writing_makes_the_parents_and_refuses_what_json_cannot_hold(tmp_path):
    write_text(tmp_path / "a" / "b.txt", "ä")
    assert (tmp_path / "a" / "b.txt").read_bytes() == "ä".encode()
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "nan.json", {"x": float("nan")})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"a": 1,\n]', "not valid JSON \\(line 2"),
        (b"\xff\xfe\x00", "not valid JSON"),
        (b"[" * 100_000, "not valid"),
        (b"1" * 9999, "not valid"),
        (b'{"a":' * 150 + b"[1, 2]" + b"}" * 150, "must be nested at most 100 deep"),
        (b"[1, " * 150 + b"2" + b"]" * 150, "must be nested at most 100 deep"),
    ],
)
def test_broken_json_says_where(tmp_path, content, message):
    path = tmp_path / "broken.json"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_json(path)


def test_json_as_deep_as_any_annotation_is_read(tmp_path):
    (tmp_path / "deep.json").write_bytes(b'[{"a":' * 49 + b"[1, 2]" + b"}]" * 49)
    assert read_json(tmp_path / "deep.json")[0]["a"][0]


def test_broken_unicode_is_written_as_a_question_mark(tmp_path):
    write_text(tmp_path / "a.txt", "a\ud800b")
    assert (tmp_path / "a.txt").read_text() == "a?b"


def test_missing_json_and_byte_order_marks(tmp_path):
    with pytest.raises(DataError, match="no such file"):
        read_json(tmp_path / "none.json")
    (tmp_path / "bom.json").write_bytes(b"\xef\xbb\xbf" + json.dumps({"a": 1}).encode())
    assert read_json(tmp_path / "bom.json") == {"a": 1}


@pytest.mark.parametrize("text", ['{"a": 1, "b": 2, "a": 3}', '{"b": ["a:", {"c": 1, "a": 2, "a": 2}]}'])
def test_a_key_that_stands_twice_in_an_object_is_refused_or_kept(tmp_path, text):
    path = tmp_path / "a.json"
    path.write_text(text)
    with pytest.raises(DataError, match="key 'a' stands twice in one object"):
        read_json(path)
    asked = []
    found = read_json(path, keeps_again=lambda *pair: asked.append(pair) or True)
    assert asked == [("a", 3 if text.startswith('{"a"') else 2)]
    assert "'a (2)': " in repr(found)


def test_colons_in_texts_and_lists_of_all_kinds_are_no_keys(tmp_path):
    content = {'a": "b': ["x: y", {"{": [1, {'\\":': [[], {}, [{"c": {}}]]}]}, ":"], ":": None}
    (tmp_path / "a.json").write_text(json.dumps(content))
    assert read_json(tmp_path / "a.json") == content


def test_an_output_folder_is_never_overwritten_by_accident(tmp_path):
    (tmp_path / "out").mkdir()
    prepare_folder(tmp_path / "out")
    (tmp_path / "out" / "file").touch()
    with pytest.raises(OutputExistsError, match="output folder exists and is not empty"):
        prepare_folder(tmp_path / "out")
    prepare_folder(tmp_path / "out", overwrite=True)
    assert list((tmp_path / "out").iterdir()) == []
    (tmp_path / "plain").touch()
    with pytest.raises(OutputExistsError, match="must be a folder, got a file"):
        prepare_folder(tmp_path / "plain")


def test_a_folder_with_an_input_or_the_working_folder_in_it_is_not_deleted(tmp_path, monkeypatch):
    study = tmp_path / "study"
    (study / "here").mkdir(parents=True)
    (study / "film.png").touch()
    for inputs in ([study], [study / "film.png"], [study / "here" / ".." / "none.json"]):
        with pytest.raises(OutputExistsError, match="it holds what is to be read"):
            prepare_folder(study, overwrite=True, inputs=inputs)
    monkeypatch.chdir(study / "here")
    with pytest.raises(OutputExistsError, match="will not delete this folder"):
        prepare_folder(study, overwrite=True)
    assert (study / "film.png").exists()
    prepare_folder(tmp_path / "other", overwrite=True, inputs=[study])


def test_the_working_folder_is_not_deleted(tmp_path, monkeypatch):
    (tmp_path / "precious").touch()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(OutputExistsError, match="will not delete this folder"):
        prepare_folder(tmp_path, overwrite=True)
    assert (tmp_path / "precious").exists()


@pytest.mark.parametrize("name", ["../x.png", "/etc/passwd", "a/../../x.png", "C:\\x.png", "..\\x.png", "link/x.png"])
def test_names_that_lead_outside_are_refused(tmp_path, name):
    folder = tmp_path / "images"
    folder.mkdir()
    (folder / "link").symlink_to(tmp_path)
    with pytest.raises(DataError, match="leads outside the image folder"):
        inside(folder, name)


@pytest.mark.parametrize("name", ["x" * 300 + ".png", "ä" * 130 + ".png", "\ud800.png", "a/\udc80.png", "a/" * 3000])
def test_names_that_no_file_can_have_are_refused(tmp_path, name):
    with pytest.raises(DataError, match="no file can have this name"):
        inside(tmp_path, name)


def test_sub_folders_blanks_and_other_alphabets_are_fine(tmp_path):
    assert inside(tmp_path, "./a b/影像#1.png") == tmp_path / "a b" / "影像#1.png"


def test_a_film_is_called_after_its_name_without_the_suffix_unless_that_is_a_number():
    from vertinst.files import film_stem

    names = ("a.png", "b/c.tar.dcm", "b\\c.dicom", "1.2.840.1", "1.2.840.1.dcm", "IM0001")
    assert [film_stem(n) for n in names] == ["a", "b/c.tar", "b/c", "1.2.840.1", "1.2.840.1", "IM0001"]


@pytest.mark.parametrize("number", [2**63, -(2**63) - 1, 10**30, 2**64, 12345678901234567890, 1.5e300, -0.1, 1e22])
def test_numbers_of_json_are_read_to_the_last_digit(tmp_path, number):
    path = tmp_path / "a.json"
    path.write_text(json.dumps({"a": [number], "b": 1}))
    (value,) = read_json(path)["a"]
    assert (value, type(value)) == (number, type(number))


def test_numbers_that_json_has_not_are_read_as_python_writes_them(tmp_path):
    path = tmp_path / "a.json"
    path.write_text('[NaN, Infinity, "\\ud800", 1e999]', encoding="utf-8")
    nan, infinity, surrogate, large = read_json(path)
    assert nan != nan
    assert (infinity, surrogate, large) == (float("inf"), "\ud800", float("inf"))
