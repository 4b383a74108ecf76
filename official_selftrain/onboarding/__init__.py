"""Somebody's own data: what it holds, and the experiment proposed for it."""
