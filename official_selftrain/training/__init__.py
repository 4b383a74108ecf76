"""One step for teacher and student, and the loop that takes it."""
