"""The vision task: images, their augmentation, models that classify them, and what they mistake."""
