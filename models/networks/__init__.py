"""The networks of the published systems, written out layer by layer."""
