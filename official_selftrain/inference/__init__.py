"""From images to predictions in the image's own pixels: the one way there."""
