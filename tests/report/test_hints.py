import numpy as np

from vertinst.report.hints import hints, other_levels
from vertinst.report.html import write_report
from vertinst.report.results import write_film
from vertinst.structures import Naming, Spine, Vertebra, rle
from vertinst.structures.measures import Body, Disc, Measure, Osteophyte

SIZE = (40, 40)


def vertebra(level, grade=0, spurs=()):
    mask = rle.encode(np.pad(np.ones((8, 8), dtype=bool), ((4, 28), (4, 28))))
    corners = np.array([[12.0, 4.0], [4.0, 4.0], [4.0, 12.0], [12.0, 12.0]])
    body = Body(corners, np.zeros(4), grades={"genant_grade": grade}, osteophytes=spurs)
    return Vertebra(level, "lumbar", score=1.0, box=rle.box_xyxy(mask), mask=mask, confidence=0.53, body=body)


def spine(probability=0.53):
    spur = Osteophyte("superior_anterior", 9.0, (1.0, 1.0))
    disc = Disc("L4", "L5", {"slip_percent": Measure(-27.04, 1.2)}, {"meyerding_grade": 2})
    naming = Naming(probability, ("L6", ""), 0.46, None)
    return Spine(SIZE, (vertebra("L5", 1), vertebra("L4", spurs=(spur,))), (), discs=(disc,), naming=naming)


def test_grades_and_spurs_are_told_from_above():
    assert hints(spine()) == [
        "L4: osteophyte superior anterior",
        "L4/5: slip \N{MINUS SIGN}27.0 ± 1.2 %, Meyerding grade 2",
        "L5: height lost, Genant grade 1",
    ]
    assert hints(Spine(SIZE, (vertebra("L5"),), ())) == []


def test_levels_that_are_not_sure_come_with_the_next_best():
    assert other_levels(spine()) == "Levels as a whole: 53% likely; else, from below, L6 none (46%)"
    assert other_levels(spine(0.99)) == other_levels(Spine(SIZE, (), ())) == ""


def test_the_report_tells_both_and_the_likelihood_of_each_level(tmp_path):
    write_film(tmp_path / "pred", "a.png", np.full(SIZE, 0.5, np.float32), spine(), {})
    write_report(tmp_path / "pred", tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert '<td class="n">53 %</td><td class="n">1.00</td>' in text
    assert "else, from below, L6 none (46%)" in text
    assert "Meyerding grade 2; L5: height lost" in text
