"""What users are told: mistakes in one line, and the progress of long loops."""
