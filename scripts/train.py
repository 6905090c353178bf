"""Train a task of your own: the path of its primary config, then settings.

python scripts/train.py my_task/moons.yaml loss=focal
"""

from training.__main__ import main

if __name__ == "__main__":
    main()
