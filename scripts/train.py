"""Train a task of your own: the path of its primary config, then settings.

python scripts/train.py my_task/moons.yaml loss=focal
"""

import signal

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C while this loads: no traceback
    from training.cli.main import main

    main()
