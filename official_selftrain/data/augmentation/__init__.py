"""Augment-S1 to S4 and what they are made of."""
