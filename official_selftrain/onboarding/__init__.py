"""Onboarding: inspect custom data and propose an experiment for it."""
