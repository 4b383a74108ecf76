"""Boxes, the letterbox, suppression, affine moves: no data, no models."""
