"""What the n-gram task reports beside the shared metrics: verse, Kneser-Ney, and embeddings."""

import torch
from matplotlib import colormaps

from ngram.data import in_text_order
from ngram.kneser_ney import KneserNey
from ngram.mixture import best_weight, mixture
from ngram.models import LogProbs, log_probs_by
from ngram.sampling import sample_lines, sample_tokens
from training.data import Split, stream_seed
from training.errors import check_setting
from training.evaluation import measure
from training.run.report import Report, ReportContext


class Verse:
    """Sample a few lines from the model and log them as text.

    Args:
        lines: how many lines, 0 for none.
        temperature: of the sampling; below 1 the likely words become likelier.
        level: what the tokens are: word, char or whitespace.
        nearest_first: whether the contexts of the data are counted back from the target.
    """

    def __init__(self, lines: int, temperature: float, level: str, nearest_first: bool) -> None:
        check_setting("lines", lines, 0 <= lines <= 10_000, "from 0 to 10000")
        check_setting("temperature", temperature, 0.01 <= temperature <= 100, "from 0.01 to 100")
        self.lines = lines
        self.temperature = temperature
        self.level = level
        self.nearest_first = nearest_first

    def __call__(self, context: ReportContext) -> Report:
        """Continue the text after the last context of the training split."""
        if not self.lines:
            return Report()
        words = context.splits.class_names
        last_context = in_text_order(context.splits.train.inputs, self.nearest_first)[-1]
        network = log_probs_by(context.model, context.loss_fn, self.nearest_first)
        seed = stream_seed(context.seed, "verse")
        tokens = sample_tokens(network, words, last_context.tolist(), self.temperature, seed)
        text = "\n".join(sample_lines(tokens, words, self.lines, self.level))
        context.log.text("verse, best weights" if context.final else "verse", text, context.step)
        return Report(text=text)


class KneserNeyBaseline:
    """At the end of a run, measure Kneser-Ney and its mixture with the network on the test split.

    Kneser-Ney is fitted to the training split at every order that the data's contexts allow, and
    the order with the least nll on the validation split is reported. The weight of the mixture is
    the best one on the calibration split. Where the data lacks one of these splits, what needs it
    is left out.

    Args:
        max_order: the highest order that is tried, 0 for no baseline.
        nearest_first: whether the contexts of the data are counted back from the target.
    """

    def __init__(self, max_order: int, nearest_first: bool) -> None:
        check_setting("max_order", max_order, 0 <= max_order <= 20, "from 0 to 20")
        self.max_order = max_order
        self.nearest_first = nearest_first

    @torch.no_grad()
    def __call__(self, context: ReportContext) -> Report:
        """Return a row of test metrics for Kneser-Ney and one for the mixture."""
        splits = context.splits
        if not (context.final and self.max_order and len(splits.val) and len(splits.test)):
            return Report()
        train, val, calibration, test = (
            Split(in_text_order(split.inputs, self.nearest_first).cpu(), split.targets.cpu())
            for split in (splits.train, splits.val, splits.calibration, splits.test)
        )

        def metrics_of(log_probs: LogProbs, split: Split) -> dict[str, float]:
            return measure(log_probs, split, splits.num_classes)

        text = torch.cat([train.inputs[0], train.targets])
        orders = range(1, min(self.max_order, train.inputs.shape[1] + 1) + 1)
        models = {n: KneserNey.fit(text, splits.num_classes, n).log_probs for n in orders}
        order = min(orders, key=lambda n: metrics_of(models[n], val)["nll"])
        counted = models[order]
        rows = {f"test, Kneser-Ney {order}": metrics_of(counted, test)}
        logged: dict[str, float] = {"kneser_ney_order": order}
        if len(calibration):
            network = log_probs_by(context.model, context.loss_fn, self.nearest_first)
            weight = best_weight(network, counted, calibration)
            label = f"test, mixed with Kneser-Ney {order} (w = {weight:.2f})"
            rows[label] = metrics_of(mixture(network, counted, weight), test)
            logged["mixture_weight"] = weight
        for prefix, metrics in zip(("kneser_ney", "mixture"), rows.values(), strict=False):
            logged |= {f"{prefix}_{name}": value for name, value in metrics.items()}
        context.log.scalars("test", logged, context.step)
        return Report(rows=rows)


class WordEmbedding:
    """At the end of a run, log the embeddings of the most frequent words for the Projector.

    It shows each word as a square, coloured by how frequent the word is.

    Args:
        words: how many words, 0 for none.
    """

    def __init__(self, words: int) -> None:
        check_setting("words", words, 0 <= words <= 100_000, "from 0 to 100000")
        self.words = words

    def __call__(self, context: ReportContext) -> Report:
        """Log the rows of the model's `embedding`, if it has one."""
        embedding = getattr(context.model, "embedding", None)
        if context.final and self.words and embedding is not None:
            counts = context.splits.class_counts
            ids = counts.argsort(descending=True, stable=True)[: self.words]
            words = [context.splits.class_names[i] for i in ids.tolist()]
            columns = {
                "word": [word if word.strip() else ascii(word) for word in words],
                "count": [str(count) for count in counts[ids].tolist()],
            }
            vectors = embedding.weight.detach().cpu()[ids]
            heights = counts[ids].double().log1p().numpy()
            colours = torch.tensor(colormaps["viridis"](heights / heights.max())).float()
            squares = colours[:, :3, None, None].expand(-1, -1, 12, 12)
            context.log.embedding("words", vectors, columns, context.step, squares)
        return Report()
