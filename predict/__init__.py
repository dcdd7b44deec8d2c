"""From networks to logits: members, replicas, the prediction pipeline, tiles."""
