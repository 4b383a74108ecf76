"""Atomic file writing, hashes and the layout of run folders."""
