"""Shared by all commands: gin files, one-line error messages and exit codes."""
