from vertinst.metrics.matching import Match, Matches
from vertinst.metrics.recognition import Recognition, count_recognition, total_recognition

MATCHES = Matches([Match(0, 0, 0.9), Match(1, 2, 0.8)], missed=[2], false=[1, 3])


def test_counts_by_hand():
    counts = count_recognition(MATCHES, ["L5", "L4", "L3"], ["L5", "L4", "L3", "L2"], uncounted=[3])
    assert counts == Recognition(annotated=3, found=2, with_level=3, labelled=1, false=1)
    assert counts.found_rate == 2 / 3
    assert counts.labelled_rate == 1 / 3
    assert counts.all_levels_right is False


def test_without_annotated_levels_there_is_no_number():
    counts = count_recognition(MATCHES, [None, None, None], ["L5", "L4", "L3", "L2"])
    assert (counts.with_level, counts.labelled, counts.labelled_rate, counts.all_levels_right) == (0, None, None, None)
    assert counts.found == 2


def test_relative_levels_are_not_right():
    assert count_recognition(MATCHES, ["L5", "L4", "L3"], ["+1", "+9", "+2", "+3"]).labelled == 0


def test_some_levels_annotated():
    counts = count_recognition(MATCHES, ["L5", None, None], ["L5", "T1", "L4", "T2"])
    assert (counts.with_level, counts.labelled, counts.all_levels_right) == (1, 1, True)


def test_nothing_and_totals():
    nothing = count_recognition(Matches([], [], []), [], [])
    assert nothing == Recognition(0, 0, 0, None, 0)
    assert nothing.found_rate is None
    assert total_recognition([]) == nothing
    one = Recognition(annotated=3, found=2, with_level=3, labelled=1, false=1)
    other = Recognition(annotated=2, found=2, with_level=0, labelled=None, false=0)
    assert total_recognition([one, other]) == Recognition(5, 4, 3, 1, 1)
