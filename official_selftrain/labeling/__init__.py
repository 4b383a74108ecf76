"""A teacher's labels: who makes them, where they are kept, what they are worth."""
