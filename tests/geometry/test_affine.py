"""Moves of pixels and corners, by hand: on small images whose pixels all differ."""

import numpy as np
import pytest
import tensorflow as tf

from official_selftrain.geometry import affine

IMAGE = np.arange(1, 13, dtype=np.uint8).reshape(3, 4)


def warped(move, image=IMAGE, fill=0):
    [result] = affine.warp([tf.constant(image)], move, [fill])
    assert result.dtype == image.dtype
    return result.numpy().tolist()


def test_moves_by_hand():
    np.testing.assert_array_equal(
        affine.translation(2, 3.0), [[1, 0, 2], [0, 1, 3], [0, 0, 1]]
    )
    np.testing.assert_array_equal(
        affine.shear(0.25, 3), [[1, 0.25, 0], [3, 1, 0], [0, 0, 1]]
    )
    # Around the center of 5 x 7 pixels, (x, y) = (3, 2), which stays.
    turn = affine.rotation(90.0, [5, 7])
    np.testing.assert_allclose(turn, [[0, -1, 5], [1, 0, -1], [0, 0, 1]], atol=1e-6)
    root = np.sqrt(3.0) / 2
    expected = [[root, -0.5, 4 - 3 * root], [0.5, root, 0.5 - 2 * root], [0, 0, 1]]
    turn = affine.rotation(30, np.array([5, 7]))
    np.testing.assert_allclose(turn, expected, atol=1e-6)
    assert turn.dtype == affine.translation(1, 1).dtype == tf.float32


def test_translated_pixels():
    # One to the left and two up; then back in the other direction.
    assert warped(affine.translation(1, 2), fill=99) == [
        [10, 11, 12, 99],
        [99, 99, 99, 99],
        [99, 99, 99, 99],
    ]
    assert warped(affine.translation(-3, -1)) == [
        [0, 0, 0, 0],
        [0, 0, 0, 1],
        [0, 0, 0, 5],
    ]


def test_sheared_pixels():
    # Row y shows the source at x + y; then column x that at y + x.
    assert warped(affine.shear(1, 0)) == [[1, 2, 3, 4], [6, 7, 8, 0], [11, 12, 0, 0]]
    assert warped(affine.shear(0, 1)) == [[1, 6, 11, 0], [5, 10, 0, 0], [9, 0, 0, 0]]


def test_rotated_pixels():
    image = IMAGE[:, :3]
    # Counter-clockwise: the right column becomes the top row.
    assert warped(affine.rotation(90, [3, 3]), image) == np.rot90(image).tolist()
    half = affine.rotation(180, [3, 4])
    assert warped(half) == IMAGE[::-1, ::-1].tolist()


def test_product_of_moves():
    """The first move, followed by the second."""
    first, second = affine.translation(1, 0), affine.rotation(90, [3, 3])
    image = IMAGE[:, :3]
    one_by_one = np.array(warped(second, np.array(warped(first, image), np.uint8)))
    assert warped(first @ second, image) == one_by_one.tolist()


@pytest.mark.parametrize(
    ("shift", "expected"),
    [
        (0.25, [1, 2, 3, 4]),
        (0.5, [2, 3, 4, 9]),  # halves go away from zero: 3.5 lies outside
        (-0.5, [9, 2, 3, 4]),  # and -0.5, but 0.5 is pixel 1
        (-0.25, [1, 2, 3, 4]),
        (-0.75, [9, 1, 2, 3]),
    ],
)
def test_nearest_neighbor(shift, expected):
    row = np.array([[1, 2, 3, 4]], np.float32)
    assert warped(affine.translation(shift, 0), row, 9) == [expected]
    assert warped(affine.translation(0, shift), row.T, 9) == [[x] for x in expected]


def test_position_just_below_a_half():
    """In float32 its sum with 0.5 is 1, beyond the only pixel."""
    pixel = np.array([[5]], np.uint8)
    assert warped(affine.translation(0.49999997, 0), pixel, 9) == [[5]]


def test_images_and_masks_move_together():
    image = np.stack([IMAGE, IMAGE + 20, IMAGE + 40], axis=-1).astype(np.float32)
    mask = IMAGE.astype(np.int32)
    move = affine.translation(2, 1)
    image_moved, mask_moved = affine.warp(
        [tf.constant(image), tf.constant(mask)], move, [7.5, 255]
    )
    assert mask_moved.dtype == tf.int32
    expected = [[7, 8, 255, 255], [11, 12, 255, 255], [255] * 4]
    np.testing.assert_array_equal(mask_moved, expected)
    np.testing.assert_array_equal(image_moved[0, 0], [7, 27, 47])
    np.testing.assert_array_equal(image_moved[2, 3], [7.5] * 3)
    assert image_moved.shape == (3, 4, 3)


def test_corners_move_as_pixels_do():
    """The box of one bright pixel, moved, is the box of where it is afterwards."""
    corners = np.float32([[[1, 2], [1, 3], [2, 2], [2, 3]]])
    # Two to the left and one up.
    moved = affine.move_corners(corners, affine.translation(2, 1))
    np.testing.assert_allclose(moved, corners - np.float32([1, 2]), atol=1e-6)
    # Row 1 and column 2 of 5 x 5, turned by a quarter: row 2 and column 1.
    turn = affine.rotation(90, [5, 5])
    image = np.zeros((5, 5), np.uint8)
    image[1, 2] = 1
    assert np.argwhere(warped(turn, image)).tolist() == [[2, 1]]
    moved = affine.move_corners(corners, turn)
    expected = np.float32([[[3, 1], [2, 1], [3, 2], [2, 2]]])
    np.testing.assert_allclose(moved, expected, atol=1e-5)
    # By hand: (x, y) comes from (x + y / 2, y), pixel centers.
    moved = affine.move_corners(corners, affine.shear(0.5, 0.0))
    expected = corners - np.float32([0, 0.5]) * (corners[..., :1] - 0.5)
    np.testing.assert_allclose(moved, expected, atol=1e-6)
