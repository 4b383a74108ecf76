"""SavedModels: written for TF Serving, and asked in a folder or at a server."""
