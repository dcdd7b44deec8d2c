"""Runs on Kaggle's own GPUs: push a job, fetch what it made."""
