"""Tiles of large images: places by hand, and coverage of all sizes."""

import hypothesis
import numpy as np
import tensorflow as tf
from hypothesis import strategies as st

from official_selftrain.geometry import tiling


def windows(size, tile):
    return tiling.windows(tf.constant(size), tile).numpy().tolist()


def test_places_by_hand():
    """Of 100 pixels, tiles of 40 that overlap by at least 10: from 0, 30 and 60."""
    assert windows((20, 100), (40, 40, 10)) == [
        [0, 0, 20, 40],
        [0, 30, 20, 40],
        [0, 60, 20, 40],
    ]
    assert windows((40, 40), (40, 40, 10)) == [[0, 0, 40, 40]]
    # A pixel more needs two tiles.
    assert windows((41, 5), (40, 40, 10)) == [[0, 0, 40, 5], [1, 0, 40, 5]]
    # Evenly: 105 - 40 = 65 in three steps.
    tops = [place[0] for place in windows((105, 9), (40, 40, 10))]
    assert tops == [0, 22, 43, 65]


@hypothesis.given(
    size=st.tuples(st.integers(1, 500), st.integers(1, 500)),
    tile=st.tuples(st.integers(30, 90), st.integers(30, 90), st.integers(0, 29)),
)
@hypothesis.settings(max_examples=100, deadline=None)
def test_every_short_object_lies_in_a_tile(size, tile):
    places = np.array(windows(size, tile))
    for axis in (0, 1):
        starts = np.unique(places[:, axis])
        ends = starts + min(size[axis], tile[axis])
        assert starts[0] == 0 and ends[-1] == size[axis]
        # Where an object as long as the overlap may start, a tile holds it.
        assert (ends[:-1] - starts[1:] >= tile[2]).all()


def test_boxes_at_inner_borders():
    """A tile of 100 x 100 with inner borders at its right and bottom: margin 2."""
    tile, size = (100, 100, 30), tf.constant([180, 180])
    places = tf.constant([[0, 0, 100, 100]])
    boxes = {
        (40, 75, 60, 98): (True, True),  # to the margin, 23 long
        (40, 75, 60, 97): (False, False),
        (40, 60, 60, 100): (True, False),  # 40 long: no tile may hold all of it
        (40, 74, 60, 100): (True, False),  # 26 long: it may reach both margins
        (40, 75, 60, 100): (True, True),
        (90, 10, 99, 50): (True, True),  # to the bottom
        (0, 0, 20, 20): (False, False),  # at the border of the image
    }
    boxes_of_tile = tf.constant([list(boxes)], tf.float32)
    found = tiling.at_borders(boxes_of_tile, places, size, tile)
    assert list(zip(*(x.numpy()[0].tolist() for x in found))) == list(boxes.values())
