"""Train an n-gram language model of Shakespeare with a chosen loss: `train-ngram`."""

from functools import partial

from training.__main__ import main as train

main = partial(train, "ngram")

if __name__ == "__main__":
    main()
