"""Boxes, the letterbox, suppression and affine transforms: no data, no models."""
