"""What runs inside the process of Kaggle's client: its only module, which Python imports there by its name."""
