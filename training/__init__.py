"""The core that both tasks share: data contract, loop, metrics, calibration, logs, checkpoints."""
