"""Colours are measured, not trusted: CIELAB distances as they are, without red and green cones, and in grey."""

from __future__ import annotations

from itertools import combinations, pairwise

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest

from probe.page.thumbnails import palette
from probe.plots import style
from probe.plots.circuit import ROLE_COLOURS
from probe.plots.style import COLOURS, DASHES, DIVERGING, SEQUENTIAL, SYMBOLS

# Machado, Oliveira and Fernandes (2009), table 1, severity 1.0; they act on linear sRGB.
DEUTERANOPIA = np.array([[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413],
                         [-0.011820, 0.042940, 0.968881]])  # fmt: skip
PROTANOPIA = np.array([[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216],
                       [-0.003882, -0.048116, 1.051998]])  # fmt: skip
NORMAL = np.eye(3)
GREY = np.tile([0.2126, 0.7152, 0.0722], (3, 1))
TO_XYZ = np.array([[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750],
                   [0.0193339, 0.1191920, 0.9503041]])  # fmt: skip
WHITE = np.array([0.95047, 1.0, 1.08883])


def lab(colour: str, eye: np.ndarray = NORMAL) -> np.ndarray:
    """CIELAB (CIE 1976, D65) of `#rrggbb` as an eye or a printer has it."""
    seen = np.clip(eye @ np.array(style.linear(colour)), 0, 1)
    share = TO_XYZ @ seen / WHITE
    root = np.where(share > (6 / 29) ** 3, np.cbrt(share), share / (3 * (6 / 29) ** 2) + 4 / 29)
    return np.array([116 * root[1] - 16, 500 * (root[0] - root[1]), 200 * (root[1] - root[2])])


def apart(one: str, other: str, eye: np.ndarray = NORMAL) -> float:
    return float(np.linalg.norm(lab(one, eye) - lab(other, eye)))


def test_the_measure_is_right_where_the_answer_is_known() -> None:
    np.testing.assert_allclose(lab("#ffffff"), [100, 0, 0], atol=0.01)
    np.testing.assert_allclose(lab("#ff0000"), [53.24, 80.09, 67.20], atol=0.02)
    # A red and a green that a deuteranope confuses: far apart as they are, near for that eye.
    assert apart("#a03820", "#4d6b1e") > 50
    assert apart("#a03820", "#4d6b1e", DEUTERANOPIA) < 20


@pytest.mark.parametrize("scale", [SEQUENTIAL, [[0, f"#{c[0]:02x}{c[1]:02x}{c[2]:02x}"] for c in palette()[:255:32]]])
@pytest.mark.parametrize("eye", [NORMAL, DEUTERANOPIA, PROTANOPIA, GREY])
def test_the_sequential_scales_darken_all_the_way_for_every_eye(scale: list, eye: np.ndarray) -> None:
    lightness = [lab(str(stop[1]), eye)[0] for stop in scale]
    # About twice the difference that can just be seen (2.3).
    assert min(first - second for first, second in pairwise(lightness)) > 4.4


@pytest.mark.parametrize("eye", [NORMAL, DEUTERANOPIA, PROTANOPIA])
def test_the_ends_of_the_diverging_scale_are_two_colours_for_every_eye(eye: np.ndarray) -> None:
    colours = [str(stop[1]) for stop in DIVERGING]
    assert apart(colours[0], colours[-1], eye) > 40
    assert apart(colours[1], colours[-2], eye) > 20
    assert all(apart(first, second, eye) > 15 for first, second in pairwise(colours))


def test_in_grey_the_diverging_scale_shows_size_and_the_marks_show_sign() -> None:
    light = [lab(str(stop[1]), GREY)[0] for stop in DIVERGING]
    assert light[2] - max(light[1], light[3]) > 15
    assert min(light[1] - light[0], light[3] - light[4]) > 15
    # The two ends are alike in grey: that is why triangles point up or down (`cells`).
    assert abs(light[0] - light[-1]) < 10


@pytest.mark.parametrize("eye", [NORMAL, DEUTERANOPIA, PROTANOPIA])
def test_lines_differ_in_colour_or_dash_for_every_eye(eye: np.ndarray) -> None:
    looks = [style.line_of(index) for index in range(len(COLOURS))]
    assert len({(look["color"], look["dash"]) for look in looks}) == len(looks)
    for one, other in combinations(looks, 2):
        if one["dash"] == other["dash"]:
            assert apart(str(one["color"]), str(other["color"]), eye) > 20


@pytest.mark.parametrize("eye", [NORMAL, DEUTERANOPIA, PROTANOPIA])
def test_roles_of_a_circuit_have_colours_that_no_eye_takes_for_each_other(eye: np.ndarray) -> None:
    nearest = min(apart(one, other, eye) for one, other in combinations(ROLE_COLOURS.values(), 2))
    assert nearest > 15
    # Two of the qualitative colours that would not pass: the bound can fail.
    assert apart("#D55E00", "#8C6D1F", PROTANOPIA) < 10


def test_lines_of_one_dash_differ_in_grey() -> None:
    for index in range(len(DASHES)):
        first, second = COLOURS[index], COLOURS[index + len(DASHES)]
        assert abs(lab(first, GREY)[0] - lab(second, GREY)[0]) > 10


def test_points_have_a_shape_of_their_own() -> None:
    assert len(set(SYMBOLS)) == len(SYMBOLS) == len(COLOURS)


def test_lines_and_points_stand_out_from_the_paper() -> None:
    assert all(100 - lab(colour, GREY)[0] > 25 for colour in (*COLOURS, *ROLE_COLOURS.values()))


def test_a_title_takes_its_own_room_and_can_go() -> None:
    bare = style.look(go.Figure(layout={"meta": {"edges": []}}), "x", "y", 380)
    figure = style.titled(go.Figure(bare), "A <b>", "word " * 40)
    text = figure.layout.title.text
    assert text.startswith("<b>A &lt;b&gt;</b><br>")
    assert text.count("<br>") == 2
    assert figure.layout.height - 380 == figure.layout.meta["title_room"] > 50
    assert figure.layout.legend.yref == "container"
    again = style.untitled(figure)
    assert figure.layout.title.text == text
    assert (again.layout.height, again.layout.title.text, again.layout.meta) == (380, None, {"edges": []})
    assert (again.layout.legend.y, again.layout.legend.yref) == (1.02, "paper")
    assert style.untitled(bare) is bare
    assert style.titled(style.titled(go.Figure(bare), "B", "x"), "A <b>", "word " * 40).to_json() == figure.to_json()


def test_names_that_would_touch_are_left_out() -> None:
    points = pd.DataFrame({"x": [0.0, 0.01, 1.0], "y": [0.0, 0.01, 1.0]}, index=["a", "b", "c"])
    figure = go.Figure()
    style.name_points(figure, points, ["b", "a", "c"])
    assert [(note.text, note.xanchor) for note in figure.layout.annotations] == [("b", "left"), ("c", "right")]


def test_names_go_where_they_cover_no_other_points_or_nowhere() -> None:
    row = {"left": (0.0, 0.0), "right": (1.0, 1.0), "one": (0.4, 0.5), "two": (0.42, 0.5), "three": (0.44, 0.5)}
    points = pd.DataFrame(row, index=["x", "y"]).T
    figure = go.Figure()
    style.name_points(figure, points, ["one"])
    assert figure.layout.annotations[0].xanchor == "right"  # it stands in the left half, but its right is taken
    left = pd.concat([points, pd.DataFrame({"x": [0.36, 0.38], "y": 0.5}, index=["four", "five"])])
    style.name_points(figure, left, ["one"])
    assert (figure.layout.annotations[1].xanchor, figure.layout.annotations[1].yshift) == ("center", 13)
    above = [("six", 0.4, 0.53), ("seven", 0.4, 0.54), ("eight", 0.4, 0.47), ("nine", 0.4, 0.46)]
    crowd = pd.concat([left, pd.DataFrame(above, columns=["name", "x", "y"]).set_index("name")])
    style.name_points(figure, crowd, ["one"])
    assert len(figure.layout.annotations) == 2


def test_words_on_a_colour_can_be_read() -> None:
    assert style.ink_on("#08306b") == style.ink_on("#000000") == "white"
    assert style.ink_on("#ffffff") == style.ink_on("#E69F00") == style.INK
    assert style.ink_on("#767676") == "white"


def test_a_scale_has_a_colour_at_every_share() -> None:
    assert style.colour_at(SEQUENTIAL, 0) == "#f7fbff"
    assert style.colour_at(SEQUENTIAL, 2) == "#08306b"
    assert style.colour_at([[0, "#000000"], [1, "#ff8000"]], 0.5) == "#804000"
