"""What the n-gram task adds to the shared metrics: sampled verse, and counting as a baseline."""

import torch

from ngram.kneser_ney import KneserNey
from ngram.sampling import sample_lines, sample_tokens
from training.data import Split, stream_seed
from training.evaluation import measure
from training.report import Moment, Report


class Verse:
    """Sample a few lines and log them as text.

    Args:
        lines: how many, 0 for none.
        temperature: of the sampling, above 0.
        level: what the tokens are: word, char or whitespace.
        nearest_first: the order of the data's contexts.
    """

    def __init__(self, lines: int, temperature: float, level: str, nearest_first: bool) -> None:
        if not 0 <= lines <= 10_000:
            raise ValueError(f"lines must be from 0 to 10000, got {lines}")
        if not 0.01 <= temperature <= 100:
            raise ValueError(f"temperature must be from 0.01 to 100, got {temperature}")
        self.lines = lines
        self.temperature = temperature
        self.level = level
        self.nearest_first = nearest_first

    def __call__(self, moment: Moment) -> Report:
        """Continue the training block."""
        if not self.lines:
            return Report()
        words = moment.splits.class_names
        context = _text_order(moment.splits.train, self.nearest_first)[-1].tolist()
        tokens = sample_tokens(
            moment.model,
            moment.loss_fn,
            words,
            context,
            temperature=self.temperature,
            seed=stream_seed(moment.seed, "verse"),
            nearest_first=self.nearest_first,
        )
        text = "\n".join(sample_lines(tokens, words, self.lines, self.level))
        moment.log.text("verse", text, moment.step)
        return Report(text=text)


class KneserNeyBaseline:
    """Measure Kneser-Ney on the same tokens, once, at the end; nothing where no split is held out.

    The order is the best on the validation split, of those that the data's context allows.

    Args:
        max_order: the highest order tried, 0 for no baseline.
        nearest_first: the order of the data's contexts.
    """

    def __init__(self, max_order: int, nearest_first: bool) -> None:
        if not 0 <= max_order <= 20:
            raise ValueError(f"max_order must be from 0 to 20, got {max_order}")
        self.max_order = max_order
        self.nearest_first = nearest_first

    def __call__(self, moment: Moment) -> Report:
        """Fit every order on the training block and measure the best."""
        splits = moment.splits
        if not (moment.final and self.max_order and len(splits.val) and len(splits.test)):
            return Report()
        train, val, test = (
            Split(_text_order(s, self.nearest_first).cpu(), s.targets.cpu())
            for s in (splits.train, splits.val, splits.test)
        )
        text = torch.cat([train.inputs[0], train.targets])
        most = min(self.max_order, train.inputs.shape[1] + 1)
        models = [KneserNey.fit(text, splits.num_classes, order) for order in range(1, most + 1)]
        figures = [
            measure(model.log_probs, val, splits.num_classes, moment.max_rows) for model in models
        ]
        order = min(range(1, most + 1), key=lambda n: figures[n - 1]["nll"])
        result = measure(models[order - 1].log_probs, test, splits.num_classes, moment.max_rows)
        logged = {f"kneser_ney_{name}": value for name, value in result.items()}
        moment.log.scalars("test", logged | {"kneser_ney_order": order}, moment.step)
        return Report(rows={f"test, Kneser-Ney {order}": result})


class WordEmbedding:
    """Log the embeddings of the most frequent words for TensorBoard's Projector, at the end.

    Args:
        words: how many, 0 for none.
    """

    def __init__(self, words: int) -> None:
        if not 0 <= words <= 100_000:
            raise ValueError(f"words must be from 0 to 100000, got {words}")
        self.words = words

    def __call__(self, moment: Moment) -> Report:
        """Take the model's `embedding`, if it has one."""
        embedding = getattr(moment.model, "embedding", None)
        if moment.final and self.words and embedding is not None:
            counts = moment.splits.class_counts
            ids = counts.argsort(descending=True, stable=True)[: self.words]
            names = [moment.splits.class_names[i] for i in ids.tolist()]
            columns = {  # a space or a line end would not be seen
                "word": [n if n.isprintable() and n.strip() else ascii(n) for n in names],
                "count": [str(n) for n in counts[ids].tolist()],
            }
            vectors = embedding.weight.detach().cpu()[ids]
            moment.log.embedding("words", vectors, columns, moment.step)
        return Report()


def _text_order(split: Split, nearest_first: bool) -> torch.Tensor:
    return split.inputs.flip(1) if nearest_first else split.inputs
