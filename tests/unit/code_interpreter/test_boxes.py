from kernel_display.boxes import Stroke

BOX = Stroke([0.5, 1.5, 1.5, 0.5, 0.5], [2, 2, 4, 4, 2])


def test_a_whisker_runs_up_from_an_edge_at_the_centre() -> None:
    assert Stroke([1, 1], [2, 0]).is_whisker_of(BOX)
    assert Stroke([1, 1], [4, 9]).is_whisker_of(BOX)
    assert not Stroke([1, 1], [5, 9]).is_whisker_of(BOX)
    assert not Stroke([0.5, 0.5], [2, 0]).is_whisker_of(BOX)
    assert not Stroke([0.5, 1.5], [2, 2]).is_whisker_of(BOX)
    assert not Stroke([1, 1], [2, 0], joined=False).is_whisker_of(BOX)


def test_a_stroke_is_beside_the_box_in_whose_strip_it_lies() -> None:
    assert Stroke([1, 1, 1], [20, 30, 40], joined=False).is_beside(BOX)
    assert not Stroke([2, 2], [2, 4]).is_beside(BOX)
    assert not Stroke([], []).is_beside(BOX)
