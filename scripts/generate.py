"""Sample text from a finished n-gram run.

python scripts/generate.py outputs/RUN --prompt "Shall I compare thee" --length 60
"""

import sys
from dataclasses import fields
from itertools import islice

from ngram.models import log_probs_by
from ngram.sampling import sample_tokens
from ngram.tokens import NEWLINE, UNK, Tokenizer, encode, join_tokens, tokenizer_for
from training.cli.script import Parser, run_script
from training.errors import ConfigError
from training.run.finished import FinishedRun, load_run
from training.run.untrusted import folder_at_fault, printable


def main() -> None:
    """Read the arguments, load the run and print the text that it continues."""
    parser = Parser(description="Sample text from a finished n-gram run.")
    parser.add_argument("run", help="run folder, as in outputs/ngram-cross_entropy-seed1-...")
    parser.add_argument("--prompt", default="", help="words to continue")
    parser.add_argument("--length", type=int, default=80, help="tokens to sample (80)")
    parser.add_argument("--temperature", type=float, default=0.8, help="above 0 (0.8)")
    parser.add_argument("--seed", type=int, default=1, help="the same seed gives the same text (1)")
    parser.add_trust()
    arguments = parser.parse_args()
    if arguments.length < 1:
        raise ConfigError(f"--length {arguments.length}: must be at least 1")
    if not 0 < arguments.temperature < float("inf"):
        raise ConfigError(f"--temperature {arguments.temperature}: must be above 0")
    run = load_run(arguments.run, arguments.trust)
    options = arguments.prompt, arguments.length, arguments.temperature, arguments.seed
    with folder_at_fault(run.folder):
        print(printable(generate(run, *options), keep="\n\t"))


def generate(run: FinishedRun, prompt: str, length: int, temperature: float, seed: int) -> str:
    """Return the prompt and the `length` tokens that the run's model puts after it."""
    data, words = run.cfg.data, run.class_names
    if "nearest_first" not in data:
        raise ConfigError(f"{run.folder}: not an n-gram run; it has no text to continue")
    settings = {field.name: data[field.name] for field in fields(Tokenizer)}
    tokenizer = tokenizer_for(data.protocol, Tokenizer(**settings))
    tokens = tokenizer(prompt.split("\n"))
    if tokens and tokens[-1] == NEWLINE:
        tokens.pop()  # the text goes on in the last line of the prompt
    unknown = sorted(set(tokens) - set(words))
    if unknown:
        print(f"not in the vocabulary: {', '.join(unknown)}", file=sys.stderr)
    # Before the prompt the model sees line ends, as if a text began there; where line ends are no
    # tokens it sees unknown words.
    before = next((words.index(token) for token in (NEWLINE, UNK) if token in words), 0)
    context = [before] * data.context_size + encode(tokens, words)
    network = log_probs_by(run.model, run.loss_fn, data.nearest_first)
    drawn = sample_tokens(network, words, context[-data.context_size :], temperature, seed)
    sampled = [words[token] for token in islice(drawn, length)]
    return join_tokens([*tokens, *sampled], tokenizer.level)


if __name__ == "__main__":
    run_script(main)
