"""Train an n-gram language model of Shakespeare with a chosen loss.

python scripts/train_ngram.py loss=mse optimizer.lr=3e-3
"""

from ngram.__main__ import main

if __name__ == "__main__":
    main()
