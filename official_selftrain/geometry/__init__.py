"""Numbers alone: boxes, the letterbox, suppression, affine moves."""
