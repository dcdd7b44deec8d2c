"""Data and cross-validation: splits, images, augmentation, training, out-of-fold logits."""
