"""SavedModels: export for TF Serving, and calls to a folder or a server."""
