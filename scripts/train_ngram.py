"""Train an n-gram language model of Shakespeare with a chosen loss.

python scripts/train_ngram.py loss=mse optimizer.lr=3e-3
"""

import signal

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C while this loads: no traceback
    from training.cli.main import main

    main("ngram")
