"""What a step and an evaluation are: data contract, loop, evaluation, optimizers, processes."""
