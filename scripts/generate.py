"""Sample text from a finished n-gram run.

python scripts/generate.py outputs/RUN --prompt "Shall I compare thee" --length 60
"""

import argparse
import sys
from dataclasses import fields

from ngram.sampling import sample_tokens
from ngram.tokens import NEWLINE, UNK, Tokenizer, join_tokens, tokenizer_for
from training.errors import ConfigError, UserError
from training.run.finished import TRUST, FinishedRun, load_run


def main() -> None:
    """Parse, sample, print."""
    parser = argparse.ArgumentParser(description="Sample text from a finished n-gram run.")
    parser.add_argument("run", help="run folder, as in outputs/ngram-cross_entropy-seed1-...")
    parser.add_argument("--prompt", default="", help="words to continue")
    parser.add_argument("--length", type=int, default=80, help="tokens to sample (80)")
    parser.add_argument("--temperature", type=float, default=0.8, help="above 0 (0.8)")
    parser.add_argument("--seed", type=int, default=1, help="the same seed gives the same text (1)")
    parser.add_argument("--trust", action="append", default=[], metavar="PACKAGE", help=TRUST)
    arguments = parser.parse_args()
    try:
        if arguments.length < 1:
            raise ConfigError(f"--length {arguments.length}: must be at least 1")
        if not 0 < arguments.temperature < float("inf"):
            raise ConfigError(f"--temperature {arguments.temperature}: must be above 0")
        if not 0 <= arguments.seed < 2**63:
            raise ConfigError(f"--seed {arguments.seed}: must be from 0 to 2**63 - 1")
        options = vars(arguments)
        print(generate(load_run(options.pop("run"), options.pop("trust")), **options))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)


def generate(run: FinishedRun, *, prompt: str, length: int, temperature: float, seed: int) -> str:
    """Return the prompt and `length` tokens after it."""
    data, words = run.cfg.data, run.class_names
    if "nearest_first" not in data:
        raise ConfigError(f"{run.folder}: not an n-gram run; it has no text to continue")
    tokenizer = tokenizer_for(
        data.protocol, Tokenizer(**{f.name: data[f.name] for f in fields(Tokenizer)})
    )
    ids = {word: i for i, word in enumerate(words)}
    tokens = tokenizer(prompt.split("\n"))
    if tokens and tokens[-1] == NEWLINE:
        tokens.pop()  # the prompt's line goes on
    unknown = sorted({token for token in tokens if token not in ids})
    if unknown:
        print(f"not in the vocabulary: {', '.join(unknown)}", file=sys.stderr)
        if UNK not in ids:
            raise ConfigError("--prompt: give words of the training text, this run has no <unk>")
    # before the prompt stands the start of a text: a line end, or where there is none the unknown
    start = ids.get(NEWLINE, ids.get(UNK, 0))
    context = [start] * data.context_size + [ids.get(token, ids.get(UNK, 0)) for token in tokens]
    drawn = sample_tokens(
        run.model,
        run.loss_fn,
        words,
        context[-data.context_size :],
        temperature=temperature,
        seed=seed,
        nearest_first=data.nearest_first,
    )
    sampled = [words[next(drawn)] for _ in range(length)]
    return join_tokens([*tokens, *sampled], tokenizer.level)


if __name__ == "__main__":
    main()
