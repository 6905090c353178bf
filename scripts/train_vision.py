"""Train an image classifier with a chosen loss.

python scripts/train_vision.py loss=mse data=fashion_mnist data.root=../shared/data
"""

import signal

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C while this loads: no traceback
    from training.cli.main import main

    main("vision")
