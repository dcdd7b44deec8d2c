"""Networks: what a variant is, how it is built, how a frame becomes its input, how its weights are kept."""
