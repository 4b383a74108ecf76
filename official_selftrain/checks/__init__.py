"""Argument checks whose messages state the expected and the received value."""
