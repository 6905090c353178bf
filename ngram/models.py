"""Models that read a context of token ids and give a logit for each word that may follow."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from losses import ClassificationLoss
from ngram.data import in_text_order
from training.errors import check_setting

# contexts (N, T) -> log-probabilities (N, V) in float64, on the CPU
LogProbs = Callable[[Tensor], Tensor]

# Shapes: N examples, T tokens of context, D embedding, H hidden, V vocabulary.


class NGramMLP(nn.Module):
    """A neural n-gram model: embeddings side by side, hidden layers, a logit for each word.

    With its default arguments it is embedding -> linear -> relu -> linear. The options let it beat
    counting on little text: LayerNorm and residual blocks, dropout, output weights tied to the
    embedding, and noise that replaces words of the context by unigram draws.

    Args:
        vocab_size: V.
        context_size: T.
        embedding_dim: D.
        hidden_dim: H.
        depth: hidden layers; each after the first is a residual block, H to 2 H to H with a GELU.
        dropout: share of hidden units that are dropped in training.
        output_dropout: share of the output layer's inputs that are dropped in training; it has an
            effect only where `tied`.
        layer_norm: normalise before each relu, each block and the output layer.
        tied: the output layer shares the weights of the embedding; a linear layer maps H to D
            before it.
        noise: share of context tokens replaced in training by draws from the unigram distribution.
        class_counts: (V,) how often each word occurs, for `noise` and `unigram_bias`.
        unigram_bias: the output bias starts at the log unigram frequencies.
        near: None, or how many of the nearest tokens have a weight matrix each. Then all T tokens
            also enter as one weighted sum of their embeddings, with one weight per position and
            feature, so that a longer context costs few weights.
        nearest_first: whether contexts are counted back from the target.
        input_dropout: share of the first layer's inputs that are dropped in training.

    Sources: Bengio et al. 2003, https://www.jmlr.org/papers/v3/bengio03a.html; tying: Press and
    Wolf 2017, arXiv 1608.05859; the weighted sum: Mnih and Teh 2012, arXiv 1206.6426; noise: Xie et
    al. 2017, arXiv 1703.02573.
    """

    def __init__(
        self,
        vocab_size: int,
        context_size: int,
        class_counts: Tensor,
        embedding_dim: int = 10,
        hidden_dim: int = 128,
        depth: int = 1,
        dropout: float = 0.0,
        output_dropout: float = 0.0,
        layer_norm: bool = False,
        tied: bool = False,
        noise: float = 0.0,
        unigram_bias: bool = False,
        near: int | None = None,
        nearest_first: bool = False,
        input_dropout: float = 0.0,
    ):
        super().__init__()
        _check_sizes(context_size=context_size, embedding_dim=embedding_dim)
        _check_sizes(hidden_dim=hidden_dim, depth=depth)
        _check_shares(input_dropout=input_dropout, dropout=dropout)
        _check_shares(output_dropout=output_dropout, noise=noise)
        check_setting("near", near, near is None or near >= 1, "null or at least 1")
        self.noise = noise
        self.near = None if near is None else slice(near) if nearest_first else slice(-near, None)
        self.embedding = nn.Embedding(vocab_size, embedding_dim)
        width = context_size if near is None else min(near, context_size) + 1
        self.input_dropout = _dropout(input_dropout)
        self.input = nn.Linear(width * embedding_dim, hidden_dim)
        norm = nn.LayerNorm if layer_norm else nn.Identity
        self.norm = norm(hidden_dim)
        self.hidden = nn.ModuleList(
            Residual(
                norm(hidden_dim),
                nn.Linear(hidden_dim, 2 * hidden_dim),
                nn.GELU(),
                nn.Linear(2 * hidden_dim, hidden_dim),
                Dropout(dropout),
            )
            for _ in range(depth - 1)
        )
        if near is not None:
            self.gates = nn.Parameter(torch.full((context_size, embedding_dim), 1 / context_size))
        self.dropout = _dropout(dropout)
        self.output: nn.Module = norm(hidden_dim)
        if tied:
            to_embedding = nn.Linear(hidden_dim, embedding_dim)
            self.output = nn.Sequential(to_embedding, norm(embedding_dim), _dropout(output_dropout))
        self.head = nn.Linear(embedding_dim if tied else hidden_dim, vocab_size)
        if tied:
            self.head.weight = self.embedding.weight
            # with nn.Embedding's own N(0, 1) the first logits would have a spread of sqrt(D)
            nn.init.normal_(self.embedding.weight, std=embedding_dim**-0.5)
        frequencies = class_counts.clamp(min=1).float()
        frequencies /= frequencies.sum()
        self.unigram_cdf = nn.Buffer(frequencies.cumsum(0), persistent=False)
        if unigram_bias:
            self.head.bias.data.copy_(frequencies.log())
        # In a tuple, so that they are registered once. What does nothing is not called: in a batch
        # of one example, calls are what takes the time.
        layers = (self.input_dropout, self.input, self.norm, torch.relu, self.dropout, *self.hidden)
        self.layers = tuple(x for x in (*layers, self.output) if not isinstance(x, nn.Identity))

    def features(self, inputs: Tensor) -> Tensor:
        """Return the output layer's inputs, (N, H), or (N, D) where tied, for contexts (N, T)."""
        if self.training and self.noise > 0:
            inputs = self._noised(inputs)
        x = self.embedding(inputs)  # (N, T, D)
        if self.near is not None:
            x = torch.cat([x[:, self.near], (x * self.gates).sum(1, keepdim=True)], 1)
        x = x.flatten(1)
        for layer in self.layers:
            x = layer(x)
        return x

    def forward(self, inputs: Tensor) -> Tensor:
        """Return logits (N, V) for contexts (N, T)."""
        return self.head(self.features(inputs))

    def _noised(self, inputs: Tensor) -> Tensor:
        """Return the contexts with a share of their tokens replaced by unigram draws."""
        draws = torch.searchsorted(self.unigram_cdf, torch.rand(inputs.shape, device=inputs.device))
        draws = draws.clamp(max=len(self.unigram_cdf) - 1)  # rounding may end the cdf below 1
        is_replaced = torch.rand(inputs.shape, device=inputs.device) < self.noise
        return torch.where(is_replaced, draws, inputs)


class Residual(nn.Sequential):
    """A residual block: x + the layers applied to x."""

    def forward(self, x: Tensor) -> Tensor:
        """Return x + the layers applied to x."""
        return x + super().forward(x)  # type: ignore[no-untyped-call]  # torch has no type here


def _check_sizes(**sizes: int) -> None:
    for name, size in sizes.items():
        check_setting(name, size, 1 <= size <= 2**14, "from 1 to 16384")


def _check_shares(**shares: float) -> None:
    for name, share in shares.items():
        check_setting(name, share, 0 <= share < 1, "in [0, 1)")


def _dropout(share: float) -> nn.Module:
    return Dropout(share) if share > 0 else nn.Identity()


class Dropout(nn.Dropout):
    """torch's dropout, on a CPU in a third of the time.

    There torch draws 64 random bits for each number. 16 are enough: the share that is dropped is p
    to a multiple of 2^-16, and the rest is multiplied by 1 / (1 - that share).
    """

    def forward(self, x: Tensor) -> Tensor:
        """Return x with a share of its numbers set to 0."""
        drops_all = self.p > 1 - 2**-16
        if not self.training or not x.is_cpu or drops_all or torch.compiler.is_compiling():
            return super().forward(x)
        bits = torch.empty(-(-x.numel() // 4), dtype=torch.int64).random_(-(2**63), None)
        draws = bits.view(torch.int16)[: x.numel()].view(x.shape)  # from -2^15
        num_dropped = round(self.p * 2**16)
        kept = (draws >= num_dropped - 2**15).to(x.dtype)
        return x * kept.mul_(2**16 / (2**16 - num_dropped))


class NGramTable(nn.Module):
    """One free row of logits per context, which shows what a loss alone does to probabilities.

    Under cross-entropy the softmax of a row goes to the frequencies of the words that follow its
    context in the text. There are V ** T rows of V logits, few enough for characters or for one
    word of context.
    """

    def __init__(self, vocab_size: int, context_size: int):
        super().__init__()
        if vocab_size ** (context_size + 1) > 2**27:
            raise ValueError(
                f"context_size={context_size} needs {vocab_size}**{context_size + 1} logits, more"
                f" than {2**27:,}; use data.context_size=1 or data.level=char"
            )
        self.rows = nn.Embedding(vocab_size**context_size, vocab_size)
        nn.init.zeros_(self.rows.weight)
        self.vocab_size = vocab_size

    def forward(self, inputs: Tensor) -> Tensor:
        """Return logits (N, V) for contexts (N, T)."""
        row = torch.zeros_like(inputs[:, 0])
        for token in inputs.unbind(1):
            row = row * self.vocab_size + token
        return self.rows(row)


def log_probs_by(model: nn.Module, loss_fn: ClassificationLoss, nearest_first: bool) -> LogProbs:
    """Return what a model says of contexts in the order of the text, by the link of its loss.

    Args:
        model: contexts (N, T) -> logits (N, V); it is put in evaluation mode.
        loss_fn: its link gives the probabilities.
        nearest_first: whether the model reads its contexts counted back from the target.
    """
    model.eval()
    device = next(model.parameters()).device

    def log_probs(contexts: Tensor) -> Tensor:
        inputs = in_text_order(contexts, nearest_first).to(device)
        return loss_fn.log_probs(model(inputs)).cpu().double()

    return log_probs
