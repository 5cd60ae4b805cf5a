"""Speeds at a recall lie on the upper envelope, and ratios are taken round by round."""

from __future__ import annotations

import doctest
import math

import pytest
import report
from report import Spread, at_recall, best_recall, faster, ratio, speeds


def test_the_doctests_hold() -> None:
    assert doctest.testmod(report).failed == 0


def test_a_speed_between_two_points_is_linear_in_the_logarithms() -> None:
    points = [(0.9, 8000.0), (0.999, 500.0)]
    wanted = 0.99
    share = math.log(0.01 / 0.001) / math.log(0.1 / 0.001)
    assert at_recall(points, wanted) == pytest.approx(500.0 * 16.0**share)


def test_a_point_that_is_slower_and_worse_than_another_counts_for_nothing() -> None:
    points = [(0.9, 4000.0), (0.975, 1000.0)]
    assert at_recall([*points, (0.94, 100.0), (0.5, 3999.0)], 0.95) == at_recall(points, 0.95)


def test_the_order_of_points_does_not_matter() -> None:
    points = [(0.8, 9000.0), (0.9, 4000.0), (0.97, 1000.0), (0.99, 300.0)]
    assert at_recall(points[::-1], 0.95) == at_recall(points, 0.95)


def test_a_perfect_recall_has_a_speed() -> None:
    assert at_recall([(0.9, 4000.0), (1.0, 100.0)], 1.0) == pytest.approx(100.0)
    assert 100.0 < at_recall([(0.9, 4000.0), (1.0, 100.0)], 0.99) < 4000.0


def test_a_recall_that_is_not_reached_has_no_speed_and_no_ratio() -> None:
    reached = [{"recall": 0.99, "speeds": [100.0, 110.0]}]
    short = [{"recall": 0.9, "speeds": [900.0, 901.0]}]
    assert speeds(short, 0.95) == []
    assert best_recall(short) == 0.9
    assert faster({"ours": reached, "theirs": short}, "ours", "theirs", 0.95) is None


def test_a_round_that_slows_both_sides_leaves_the_ratio_as_it_is() -> None:
    found = ratio([100.0, 10.0, 50.0], [50.0, 5.0, 25.0])
    assert found == Spread(2.0, 2.0, 2.0, 3)
