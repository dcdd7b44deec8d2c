"""Kaggle's own client as a subprocess: credentials, download, upload."""
