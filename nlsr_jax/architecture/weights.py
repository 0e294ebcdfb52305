"""The parameter tree of a model as a table: what each array is called in Hugging Face files."""

from typing import NamedTuple

from nlsr_jax.architecture.config import EXPERT_PROJECTIONS, ModelConfig
from nlsr_jax.modules import path_in_layer

EMBED, HEAD, NORM = "model.embed_tokens.weight", "lm_head.weight", "model.norm.weight"


class Weight(NamedTuple):
    """One array of the parameter tree.

    Attributes:
      path: of the array in the tree.
      names: of its tensors in the files, in the order of its leading axes.
      shape: of the array.
      axes: how many leading axes are spread over tensors: layers, and experts.
    """

    path: tuple[str, ...]
    names: tuple[str, ...]
    shape: tuple[int, ...]
    axes: int = 0

    @property
    def part(self) -> tuple[int, ...]:
        """The shape of one tensor."""
        return self.shape[self.axes :]


def weight_table(config: ModelConfig) -> list[Weight]:
    """List all arrays of a model's parameter tree with their names in Hugging Face files."""
    c, d = config, config.hidden_size
    layers = [f"model.layers.{i}." for i in range(c.num_layers)]
    table = [Weight(("embed",), (EMBED,), (c.vocab_size, d))]

    def stacked(path, name, shape):
        names = tuple(f"{layer}{name}" for layer in layers)
        table.append(Weight(("layers", *path), names, (c.num_layers, *shape), 1))

    for module, (k, out) in c.projections().items():
        stacked((module, "kernel"), f"{path_in_layer(module)}.weight", (out, k))
        if c.bias(module):
            stacked((module, "bias"), f"{path_in_layer(module)}.bias", (out,))
    for name, in_files in c.table.norms:
        stacked((name, "scale"), f"{in_files}.weight", (d,))
    if c.qk_norm:
        whole = c.table.qk_norm == "whole"
        for name, width in zip(("q_norm", "k_norm"), c.attention_widths()[:2], strict=True):
            stacked((name, "scale"), f"self_attn.{name}.weight", (width if whole else c.head_dim,))
    if c.experts is not None:
        table += _expert_table(c, layers)
    table.append(Weight(("norm", "scale"), (NORM,), (d,)))
    if not c.tied:
        table.append(Weight(("lm_head",), (HEAD,), (c.vocab_size, d)))
    return table


def _expert_table(c: ModelConfig, layers: list[str]) -> list[Weight]:
    """The router, and the projections of all experts of all layers."""
    rule, experts, d = c.table.experts, c.experts, c.hidden_size
    assert rule is not None
    assert experts is not None
    routers = tuple(f"{layer}{rule.router}.weight" for layer in layers)
    table = [Weight(("layers", "experts", "router"), routers, (c.num_layers, experts.count, d), 1)]
    shapes = ((experts.size, d), (experts.size, d), (d, experts.size))
    for name, in_files, shape in zip(EXPERT_PROJECTIONS, rule.projections, shapes, strict=True):
        names = tuple(
            f"{layer}{rule.experts}.{i}.{in_files}.weight" for layer in layers for i in range(experts.count)
        )
        table.append(Weight(("layers", "experts", name), names, (c.num_layers, experts.count, *shape), 2))
    return table
