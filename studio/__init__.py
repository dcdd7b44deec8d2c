"""The embedded competition: cars on a turntable, rendered in the competition's own layout."""
