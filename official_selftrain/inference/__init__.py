"""Inference: from images to predictions in image pixels."""
