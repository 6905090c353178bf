"""Train an image classifier with a chosen loss: `train-vision`."""

from functools import partial

from training.__main__ import main as train

main = partial(train, "vision")

if __name__ == "__main__":
    main()
