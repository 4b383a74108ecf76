"""What the commands share: reading gin files, a mistake as one line, exit codes."""
