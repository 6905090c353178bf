"""Train an image classifier with a chosen loss.

python scripts/train_vision.py loss=mse data=fashion_mnist data.root=FOLDER
"""

from vision.__main__ import main

if __name__ == "__main__":
    main()
