"""Side-by-side measurements against peers; every speed claim in the README has its file here."""
