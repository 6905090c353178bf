"""The n-gram task: Shakespeare's text, its tokens, models that predict the next one, and verse."""
