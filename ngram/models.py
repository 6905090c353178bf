"""Models that read a context of token ids and give a logit for each word that may follow."""

import torch
from torch import Tensor, nn

# Shapes: N examples, T tokens of context, D embedding, H hidden, V vocabulary.


class NGramMLP(nn.Module):
    """A neural n-gram model: embeddings side by side, hidden layers, a logit for each word.

    The plain form (depth 1, nothing else) is embedding -> linear -> relu -> linear. The options are
    what lets it beat counting on little text: LayerNorm and residual layers, dropout, output
    weights tied to the embedding, and contexts noised with unigram draws: smoothing by data.

    Args:
        vocab_size: V.
        context_size: T.
        embedding_dim: D.
        hidden_dim: H.
        depth: hidden layers; each after the first is a residual block, H to 2 H to H with a GELU.
        dropout: share of hidden units dropped in training.
        output_dropout: share of the last features dropped in training (only where tied).
        layer_norm: normalise before each relu, block and output layer.
        tied: the output layer's weights are the embedding's; a linear layer maps H to D first.
        noise: share of context tokens replaced in training by draws from the unigram distribution.
        class_counts: (V,) counts for `noise` and `unigram_bias`.
        unigram_bias: the output bias starts at the log unigram frequencies.
        near: null, or how many of the nearest tokens have a weight matrix each; then all T tokens
            also enter as one sum of their embeddings, with a weight for each position and feature:
            a long context for T D weights.
        nearest_first: whether contexts are counted back from the target.
        input_dropout: share of what feeds the first layer dropped in training.

    Sources: Bengio et al. 2003, https://www.jmlr.org/papers/v3/bengio03a.html; tying: Press and
    Wolf 2017, arXiv 1608.05859; the weighted sum: Mnih and Teh 2012, arXiv 1206.6426; noise: Xie et
    al. 2017, arXiv 1703.02573.
    """

    unigram_cdf: Tensor
    max_parameters = 2**28

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
        for name, size in (
            ("context_size", context_size),
            ("embedding_dim", embedding_dim),
            ("hidden_dim", hidden_dim),
            ("depth", depth),
        ):
            if not 1 <= size <= 2**14:
                raise ValueError(f"{name} must be from 1 to 16384, got {size}")
        for name, share in (
            ("dropout", dropout),
            ("output_dropout", output_dropout),
            ("noise", noise),
            ("input_dropout", input_dropout),
        ):
            if not 0 <= share < 1:
                raise ValueError(f"{name} must be in [0, 1), got {share}")
        if near is not None and near < 1:
            raise ValueError(f"near must be null or at least 1, got {near}")
        inner = (context_size * embedding_dim + (4 * depth - 3) * hidden_dim) * hidden_dim
        if inner + vocab_size * max(embedding_dim, hidden_dim) > self.max_parameters:
            raise ValueError(
                f"hidden_dim={hidden_dim} needs more than {self.max_parameters:,} parameters with"
                f" embedding_dim={embedding_dim}, context_size={context_size}, depth={depth}"
            )
        self.noise = noise
        self.near = None if near is None else slice(near) if nearest_first else slice(-near, None)
        self.embedding = nn.Embedding(vocab_size, embedding_dim)
        width = context_size if near is None else min(near, context_size) + 1
        self.input_dropout = _dropout(input_dropout)
        self.input = nn.Linear(width * embedding_dim, hidden_dim)
        norm = nn.LayerNorm if layer_norm else nn.Identity
        self.norm = norm(hidden_dim)
        self.hidden = nn.ModuleList(
            nn.Sequential(
                norm(hidden_dim),
                nn.Linear(hidden_dim, 2 * hidden_dim),
                nn.GELU(),
                nn.Linear(2 * hidden_dim, hidden_dim),
                nn.Dropout(dropout),
            )
            for _ in range(depth - 1)
        )
        if near is not None:
            gates = torch.full((context_size, embedding_dim), 1 / context_size)
            self.gates = nn.Parameter(gates)
        self.dropout = _dropout(dropout)
        self.output: nn.Module = norm(hidden_dim)
        if tied:
            self.output = nn.Sequential(
                nn.Linear(hidden_dim, embedding_dim),
                norm(embedding_dim),
                nn.Dropout(output_dropout),
            )
        # in tuples: registered once, and what does nothing is not called
        first = (self.input_dropout, self.input, self.norm, nn.ReLU(), self.dropout)
        self.first = tuple(layer for layer in first if not isinstance(layer, nn.Identity))
        self.last = () if isinstance(self.output, nn.Identity) else (self.output,)
        self.head = nn.Linear(embedding_dim if tied else hidden_dim, vocab_size)
        if tied:
            self.head.weight = self.embedding.weight
            # N(0, 1) rows would start the logits at a spread of sqrt(D).
            nn.init.normal_(self.embedding.weight, std=embedding_dim**-0.5)
        counts = class_counts.clamp(min=1).float()
        self.register_buffer("unigram_cdf", (counts / counts.sum()).cumsum(0), persistent=False)
        if unigram_bias:
            self.head.bias.data.copy_((counts / counts.sum()).log())

    def features(self, inputs: Tensor) -> Tensor:
        """Return what feeds the output layer, (N, H), or (N, D) where tied, for inputs (N, T)."""
        if self.training and self.noise > 0:
            inputs = self._noised(inputs)
        x = self.embedding(inputs)  # (N, T, D)
        if self.near is not None:
            x = torch.cat([x[:, self.near], (x * self.gates).sum(1, keepdim=True)], 1)
        x = x.flatten(1)
        for layer in self.first:
            x = layer(x)  # (N, H)
        for block in self.hidden:
            x = x + block(x)
        for layer in self.last:
            x = layer(x)
        return x

    def forward(self, inputs: Tensor) -> Tensor:
        """Return logits (N, V) for contexts (N, T)."""
        return self.head(self.features(inputs))

    def _noised(self, inputs: Tensor) -> Tensor:
        draws = torch.searchsorted(self.unigram_cdf, torch.rand(inputs.shape, device=inputs.device))
        draws = draws.clamp(max=len(self.unigram_cdf) - 1)  # the rounded sum may stay below 1
        return torch.where(
            torch.rand(inputs.shape, device=inputs.device) < self.noise, draws, inputs
        )


def _dropout(share: float) -> nn.Module:
    return nn.Dropout(share) if share > 0 else nn.Identity()


class NGramTable(nn.Module):
    """One free logit row per context: what a loss does to probabilities with no model in the way.

    Under cross-entropy each row's softmax goes to the counted frequencies of the words that follow
    its context. V ** T rows of V logits fit for characters, or for one word of context.
    """

    max_parameters = 2**27

    def __init__(self, vocab_size: int, context_size: int):
        super().__init__()
        if vocab_size ** (context_size + 1) > self.max_parameters:
            raise ValueError(
                f"context_size={context_size} needs {vocab_size}**{context_size + 1} logits, more"
                f" than {self.max_parameters:,}; use data.context_size=1 or data.level=char"
            )
        self.rows = nn.Embedding(vocab_size**context_size, vocab_size)
        nn.init.zeros_(self.rows.weight)
        self.head = nn.Identity()
        self.vocab_size = vocab_size

    def features(self, inputs: Tensor) -> Tensor:
        """Return the logit rows (N, V) of contexts (N, T)."""
        row = torch.zeros_like(inputs[:, 0])
        for token in inputs.unbind(1):
            row = row * self.vocab_size + token
        return self.rows(row)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return logits (N, V) for contexts (N, T)."""
        return self.head(self.features(inputs))
