import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from vertinst.data import near_duplicates
from vertinst.data.near_duplicates import HASH_BITS, THRESHOLD, NearPair, film_hash, find_near_pairs, near_identical
from vertinst.data.phantom import make_phantoms
from vertinst.data.radiograph import window
from vertinst.structures import Dataset, ImageRecord


def distance(a, b):
    return sum((x ^ y).bit_count() for x, y in zip(a, b, strict=True))


def turned(value, bits):
    """The hash with these bits turned."""
    flags = np.zeros(HASH_BITS, dtype=np.uint8)
    flags[list(bits)] = 1
    return bytes(np.frombuffer(value, np.uint8) ^ np.packbits(flags))


def brute(hashes, threshold):
    """All near pairs of different hashes, the first film standing for those that have the very same."""
    first = {}
    for name, value in hashes.items():
        first.setdefault(value, name)
    pairs = {
        NearPair(name, next(n for n, v in hashes.items() if v == value), 0)
        for name, value in hashes.items()
        if first[value] != name
    }
    pairs = {NearPair(first[hashes[p.a]], p.a, 0) for p in pairs}
    items = [(name, value) for value, name in first.items()]
    for number, (a, x) in enumerate(items):
        for b, y in items[number + 1 :]:
            if distance(x, y) <= threshold:
                pairs.add(NearPair(a, b, distance(x, y)))
    return pairs


def picture(seed, height=300, width=220):
    rng = np.random.default_rng(seed)
    rough = rng.random((12, 9)).astype(np.float32)
    return cv2.resize(rough, (width, height), interpolation=cv2.INTER_CUBIC).clip(0, 1)


@pytest.fixture(scope="module")
def films(tmp_path_factory):
    """Raw pixels of phantom films of different patients."""
    made = make_phantoms(9, 5, tmp_path_factory.mktemp("phantoms") / "films")
    paths = {path.name.split("_")[0]: path for path in sorted(made.images.iterdir())}
    assert len(paths) >= 3
    return [np.asarray(Image.open(path)) for path in paths.values()]


def hashed(raw):
    return film_hash(window(np.ascontiguousarray(raw).astype(np.uint16))[0])


def test_copies_are_near_and_other_patients_are_far(films):
    hashes = [hashed(film) for film in films]
    for number, value in enumerate(hashes):
        assert min(distance(value, other) for other in hashes[:number] + hashes[number + 1 :]) > 1.5 * THRESHOLD
    for film, value in zip(films, hashes, strict=True):
        height, width = film.shape
        jpeg = cv2.imdecode(cv2.imencode(".jpg", film, [cv2.IMWRITE_JPEG_QUALITY, 50])[1], cv2.IMREAD_GRAYSCALE)
        half = cv2.resize(film, (width // 2, height // 2), interpolation=cv2.INTER_AREA)
        gamma = np.rint(255 * (film / 255.0) ** 1.3)
        cut = film[height // 100 : -height // 100, width // 100 : -width // 100]
        for copy in (jpeg, half):
            assert distance(hashed(copy), value) <= 10
        for copy in (gamma, cut):
            assert distance(hashed(copy), value) <= THRESHOLD


def test_sixteen_bits_hash_as_eight(films):
    assert hashed(films[0].astype(np.uint16) * 257) == hashed(films[0])


def test_a_film_of_one_grey_value_has_no_hash():
    assert film_hash(np.zeros((50, 40), np.float32)) is None
    assert film_hash(np.full((1, 1), 0.5, np.float32)) is None
    assert len(film_hash(picture(0))) == HASH_BITS // 8


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, THRESHOLD),
    st.lists(st.tuples(st.integers(0, 3), st.sets(st.integers(0, HASH_BITS - 1), max_size=40)), max_size=24),
)
def test_no_near_pair_is_missed(threshold, copies):
    base = [np.random.default_rng(n).bytes(HASH_BITS // 8) for n in range(4)]
    hashes = {f"{n}.png": turned(base[which], bits) for n, (which, bits) in enumerate(copies)}
    # The bound on pairs is another test's business.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(near_duplicates, "_PAIRS_PER_FILM", 1000)
        patch.setattr(near_duplicates, "_CHUNK", 7)
        pairs = find_near_pairs(hashes, threshold)
    assert len(pairs) == len(set(pairs))
    assert set(pairs) == brute(hashes, threshold)
    order = list(hashes)
    assert pairs == sorted(pairs, key=lambda p: (order.index(p.a), order.index(p.b)))
    assert all(order.index(p.a) < order.index(p.b) for p in pairs)


def test_pairs_at_the_threshold_are_found_wherever_the_bits_lie():
    zero = bytes(HASH_BITS // 8)
    worst = [16 * band + bit for band in range(16) for bit in (3, 9)]
    assert find_near_pairs({"a": zero, "b": turned(zero, worst[:31])}) == [NearPair("a", "b", 31)]
    assert find_near_pairs({"a": zero, "b": turned(zero, worst)}) == []
    with pytest.raises(ValueError, match="must be 0 to 31, got 32"):
        find_near_pairs({"a": zero, "b": zero}, 32)


def test_thousands_of_equal_films_give_as_many_pairs():
    pairs = find_near_pairs({f"{n}.png": bytes(32) for n in range(5000)})
    assert len(pairs) == 4999
    assert {p.a for p in pairs} == {"0.png"}


def groups(names, pairs):
    """Which films are joined by chains of pairs."""
    group = {name: {name} for name in names}
    for pair in pairs:
        if group[pair.a] is not group[pair.b]:
            joined = group[pair.a] | group[pair.b]
            group.update(dict.fromkeys(joined, joined))
    return {frozenset(members) for members in group.values()}


def test_a_long_series_of_frames_stays_linear_and_joined(monkeypatch):
    monkeypatch.setattr(near_duplicates, "_CHUNK", 500)
    rng = np.random.default_rng(0)
    series = [rng.bytes(32) for _ in range(3)]
    hashes = {f"{n}": turned(series[n % 3], rng.choice(HASH_BITS, 6, replace=False)) for n in range(300)}
    pairs = find_near_pairs(hashes)
    assert 300 <= len(pairs) < 300 * (near_duplicates._PAIRS_PER_FILM + 2)
    assert groups(hashes, pairs) == groups(hashes, brute(hashes, THRESHOLD))
    assert set(pairs) <= brute(hashes, THRESHOLD)


def test_nothing_to_compare():
    assert find_near_pairs({}) == []
    assert find_near_pairs({"a": bytes(32)}) == []


def test_films_of_a_folder(tmp_path):
    (tmp_path / "ward").mkdir()
    for name, seed in (("ward/b.png", 1), ("a.png", 2), ("c.png", 1)):
        Image.fromarray(np.rint(picture(seed) * 255).astype(np.uint8)).save(tmp_path / name)
    Image.fromarray(np.rint(picture(1, 600, 440) * 65535).astype(np.uint16)).save(tmp_path / "big.png")
    Image.fromarray(np.full((30, 20), 7, np.uint8)).save(tmp_path / "blank.png")
    Image.fromarray(np.full((30, 20), 9, np.uint8)).save(tmp_path / "blank2.png")
    (tmp_path / "broken.png").write_bytes(b"\x89PNG")
    names = ("ward/b.png", "a.png", "c.png", "big.png", "blank.png", "blank2.png", "broken.png", "gone.png")
    names += ("../outside.png",)
    dataset = Dataset(("lumbar",), tuple(ImageRecord(n, name, 220, 300) for n, name in enumerate(names, start=1)))
    steps = []
    pairs = near_identical(dataset, tmp_path, lambda done, total, text: steps.append((done, total)))
    assert {(p.a, p.b) for p in pairs if p.distance > 0} <= {("ward/b.png", "big.png")}
    assert {p.b for p in pairs} == {"c.png", "big.png"}
    assert {p.a for p in pairs} == {"ward/b.png"}
    assert steps == [(n, 9) for n in range(10)]
    assert near_identical(Dataset(("lumbar",)), tmp_path) == ()
