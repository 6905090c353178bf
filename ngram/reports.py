"""What the n-gram task adds to the shared metrics: sampled verse, and counting as a baseline."""

from collections.abc import Callable

import torch
from torch import Tensor

from ngram.kneser_ney import KneserNey
from ngram.sampling import sample_lines, sample_tokens
from training.data import Split, stream_seed
from training.evaluation import measure
from training.run.report import Report, ReportContext

LogProbs = Callable[[Tensor], Tensor]  # contexts (N, T) -> (N, V) in float64
ROWS = 512  # at a time


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

    def __call__(self, context: ReportContext) -> Report:
        """Continue the training block."""
        if not self.lines:
            return Report()
        words = context.splits.class_names
        last_tokens = _text_order(context.splits.train.inputs, self.nearest_first)[-1].tolist()
        tokens = sample_tokens(
            context.model,
            context.loss_fn,
            words,
            last_tokens,
            temperature=self.temperature,
            seed=stream_seed(context.seed, "verse"),
            nearest_first=self.nearest_first,
        )
        text = "\n".join(sample_lines(tokens, words, self.lines, self.level))
        context.log.text("verse", text, context.step)
        return Report(text=text)


class KneserNeyBaseline:
    """Measure Kneser-Ney on the same tokens, and a mixture with it, once, at the end.

    The order is the best on the validation split, of those that the data's context allows. The
    mixture is w p_network + (1 - w) p_counted, with the w that is best on the calibration split
    (Jelinek and Mercer 1980). Nothing is measured where a split that this needs is not held out.

    Args:
        max_order: the highest order tried, 0 for no baseline.
        nearest_first: the order of the data's contexts.
    """

    def __init__(self, max_order: int, nearest_first: bool) -> None:
        if not 0 <= max_order <= 20:
            raise ValueError(f"max_order must be from 0 to 20, got {max_order}")
        self.max_order = max_order
        self.nearest_first = nearest_first

    @torch.no_grad()
    def __call__(self, context: ReportContext) -> Report:
        """Fit every order on the training block; measure the best, alone and in the mixture."""
        splits, num_classes, max_rows = context.splits, context.splits.num_classes, context.max_rows
        if not (context.final and self.max_order and len(splits.val) and len(splits.test)):
            return Report()
        train, val, calibration, test = (
            Split(_text_order(s.inputs, self.nearest_first).cpu(), s.targets.cpu())
            for s in (splits.train, splits.val, splits.calibration, splits.test)
        )
        text = torch.cat([train.inputs[0], train.targets])
        most = min(self.max_order, train.inputs.shape[1] + 1)
        models = [KneserNey.fit(text, num_classes, order) for order in range(1, most + 1)]
        figures = [measure(model.log_probs, val, num_classes, max_rows) for model in models]
        order = min(range(1, most + 1), key=lambda n: figures[n - 1]["nll"])
        counted = models[order - 1].log_probs
        result = measure(counted, test, num_classes, max_rows)
        logged = {f"kneser_ney_{name}": value for name, value in result.items()}
        logged["kneser_ney_order"] = order
        rows = {f"test, Kneser-Ney {order}": result}
        if len(calibration):
            context.model.eval()

            def network(contexts: Tensor) -> Tensor:
                inputs = _text_order(contexts, self.nearest_first).to(splits.test.targets.device)
                return context.loss_fn.log_probs(context.model(inputs)).cpu().double()

            weight = mixture_weight(
                network, counted, calibration.first(max_rows or len(calibration))
            )
            result = measure(mixture(network, counted, weight), test, num_classes, max_rows)
            rows[f"test, mixed with Kneser-Ney {order} (w = {weight:.2f})"] = result
            logged |= {f"mixture_{name}": value for name, value in result.items()}
            logged["mixture_weight"] = weight
        context.log.scalars("test", logged, context.step)
        return Report(rows=rows)


class WordEmbedding:
    """Log the embeddings of the most frequent words for TensorBoard's Projector, at the end.

    Args:
        words: how many, 0 for none.
    """

    def __init__(self, words: int) -> None:
        if not 0 <= words <= 100_000:
            raise ValueError(f"words must be from 0 to 100000, got {words}")
        self.words = words

    def __call__(self, context: ReportContext) -> Report:
        """Take the model's `embedding`, if it has one."""
        embedding = getattr(context.model, "embedding", None)
        if context.final and self.words and embedding is not None:
            counts = context.splits.class_counts
            ids = counts.argsort(descending=True, stable=True)[: self.words]
            names = [context.splits.class_names[i] for i in ids.tolist()]
            columns = {  # a space or a line end would not be seen
                "word": [n if n.isprintable() and n.strip() else ascii(n) for n in names],
                "count": [str(n) for n in counts[ids].tolist()],
            }
            vectors = embedding.weight.detach().cpu()[ids]
            context.log.embedding("words", vectors, columns, context.step)
        return Report()


def mixture(network: LogProbs, counted: LogProbs, weight: float) -> LogProbs:
    """Return the log-probabilities of w p_network + (1 - w) p_counted."""

    def log_probs(inputs: Tensor) -> Tensor:
        return (weight * network(inputs).exp() + (1 - weight) * counted(inputs).exp()).log()

    return log_probs


def mixture_weight(network: LogProbs, counted: LogProbs, split: Split) -> float:
    """Return the w in [0, 1] of the mixture's least nll on a split.

    It is convex in w: its slope, the mean of (q - p) / (w p + (1 - w) q), p and q being the
    target's two probabilities, is bisected.
    """

    def of_targets(log_probs: LogProbs) -> Tensor:
        chunks = zip(split.inputs.split(ROWS), split.targets.split(ROWS), strict=True)
        return torch.cat([log_probs(x).gather(1, y[:, None]) for x, y in chunks]).exp()

    p, q = of_targets(network), of_targets(counted)
    low, high = 0.0, 1.0
    for _ in range(50):
        w = (low + high) / 2
        low, high = (w, high) if ((p - q) / (w * p + (1 - w) * q)).sum() > 0 else (low, w)
    return (low + high) / 2


def _text_order(contexts: Tensor, nearest_first: bool) -> Tensor:
    """Return contexts (N, T) in the order of the text, or from that order in the data's."""
    return contexts.flip(1) if nearest_first else contexts
