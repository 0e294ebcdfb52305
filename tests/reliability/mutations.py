"""Forty faults for ``tests.reliability.mutants``: each is one change of a core file that a test has to notice."""

from typing import NamedTuple


class Mutation(NamedTuple):
    """One fault.

    Attributes:
      file: path inside ``nlsr_jax``.
      kind: what sort of fault it is.
      old: text that stands in the file once.
      new: what takes its place.
      former: the path of the file in trees that have it under another name.
    """

    file: str
    kind: str
    old: str
    new: str
    former: str = ""

    @property
    def room(self) -> str:
        """The package that the file is in."""
        return self.file.split("/")[0]


TESTS = {
    "nlsr": ("nlsr", "pipeline", "e2e/test_realign.py"),
    "formats": ("formats", "parity", "pipeline", "reliability", "e2e/test_realign.py"),
    "files": ("files", "formats", "reliability", "e2e/test_outputs.py"),
    "calibration": ("calibration", "pipeline", "e2e/test_realign.py"),
    "architecture": ("architecture", "models", "parity"),
    "models": ("models", "parity", "calibration", "evaluation", "training"),
    "training": ("training", "parity", "defenses", "e2e/test_study.py"),
    "evaluation": ("evaluation", "study", "e2e/test_evaluate.py"),
    "data": ("data", "training", "evaluation", "e2e/test_study.py"),
    "pipeline": ("pipeline", "e2e", "reliability"),
}
"""What tests a package: its own folder first, then those of what is built on it."""

MUTATIONS = (
    Mutation("nlsr/amplify.py", "sign", "strong + beta * (strong - base)", "strong + beta * (base - strong)"),
    Mutation("nlsr/amplify.py", "sign", "(1 + beta, -beta)", "(1 + beta, beta)"),
    Mutation(
        "nlsr/masks.py", "rounding", "return round((1 - sparsity) * size)", "return int((1 - sparsity) * size)"
    ),
    Mutation(
        "nlsr/masks.py",
        "order of ties",
        "np.flatnonzero(scores == threshold)[-spare:]",
        "np.flatnonzero(scores == threshold)[:spare]",
    ),
    Mutation(
        "nlsr/similarity.py",
        "limit",
        "jnp.where(zero, 0.0, jnp.clip(inner, -1.0, 1.0))",
        "jnp.where(zero, 1.0, jnp.clip(inner, -1.0, 1.0))",
    ),
    Mutation(
        "nlsr/pruning.py", "boundary", '{m: s >= settings["tau"] for m, s', '{m: s > settings["tau"] for m, s'
    ),
    Mutation(
        "nlsr/pruning.py", "swapped arguments", "np.lexsort((modules, layers))", "np.lexsort((layers, modules))"
    ),
    Mutation("nlsr/pruning.py", "sign", "jnp.argsort(values, stable=True)", "jnp.argsort(-values, stable=True)"),
    Mutation(
        "nlsr/correction.py",
        "dropped condition",
        "jnp.where(m & ~pruned, moved(t, e, strength), jnp.zeros((), t.dtype))",
        "jnp.where(m, moved(t, e, strength), jnp.zeros((), t.dtype))",
    ),
    Mutation(
        "nlsr/identify.py",
        "formula",
        '"a": jnp.abs(factors["a"]) * jnp.sqrt(square),',
        '"a": jnp.abs(factors["a"]) * square,',
    ),
    Mutation(
        "nlsr/identify.py",
        "sign",
        "lambda change, g: jnp.maximum(-change * g, 0.0)",
        "lambda change, g: jnp.maximum(change * g, 0.0)",
    ),
    Mutation(
        "nlsr/statistics.py",
        "wrong operation",
        "jax.tree.map(jnp.add, first.input_square, second.input_square)",
        "jax.tree.map(jnp.maximum, first.input_square, second.input_square)",
    ),
    Mutation("nlsr/basis.py", "transposition", "matmul(b, turn.T)", "matmul(b, turn)"),
    Mutation(
        "formats/peft_weights.py",
        "missing sort",
        "{module: dict(sorted(keys[module].items())) for module",
        "{module: dict(keys[module].items()) for module",
    ),
    Mutation("formats/peft_weights.py", "boundary", "        if bad:\n", "        if bad > 1:\n"),
    Mutation(
        "formats/peft_config.py",
        "wrong default",
        '(config.get("lora_alpha", 8)',
        '(config.get("lora_alpha", 16)',
    ),
    Mutation(
        "formats/mask_files.py",
        "dropped content",
        "{m: list(layers[m]) for m in sorted(layers)} if layers else None",
        "None",
    ),
    Mutation("formats/record.py", "dropped sort", "in sorted(files.items()):", "in reversed(files.items()):"),
    Mutation(
        "formats/peft_writing.py",
        "boundary",
        "            if value != default:\n                pat",
        "            if value > default:\n                pat",
    ),
    Mutation("files/safetensors_files.py", "alignment", 'b" " * (-len(text) % 8)', 'b" " * (-len(text) % 4)'),
    Mutation(
        "files/safetensors_files.py",
        "wrong axis",
        "self._start[name] + first * math.prod(shape[1:]) * dtype.itemsize",
        "self._start[name] + first * shape[1] * dtype.itemsize",
    ),
    Mutation("files/numbers.py", "boundary", "max(initial=0) < exponent and", "max(initial=0) <= exponent and"),
    Mutation(
        "files/output.py",
        "dropped check",
        "if error.errno in (errno.EEXIST, errno.ENOTEMPTY):",
        "if error.errno in (errno.EACCES,):",
    ),
    Mutation("files/output.py", "wrong constant", "file.chmod(0o666 & ~umask)", "file.chmod(0o600 & ~umask)"),
    Mutation(
        "calibration/loss.py",
        "off by one",
        "[:, 1:].astype(bool)",
        "[:, :-1].astype(bool)",
        former="calibration/capture.py",
    ),
    Mutation(
        "calibration/openings.py",
        "off by one",
        "places[i, : found.size] = found - 1",
        "places[i, : found.size] = found",
    ),
    Mutation(
        "calibration/search.py",
        "formula",
        "enough = aim.aimed ** (1 / aim.headroom)",
        "enough = aim.aimed**aim.headroom",
    ),
    Mutation(
        "architecture/rope.py",
        "swapped arguments",
        "(1 - smooth) * frequency / rope.factor + smooth * frequency",
        "(1 - smooth) * frequency + smooth * frequency / rope.factor",
    ),
    Mutation(
        "models/norm.py",
        "wrong dtype",
        "wide = x.astype(jnp.float32)\n",
        "wide = x\n",
        former="models/block.py",
    ),
    Mutation("models/attention.py", "sign", "(d_weights - mean)", "(d_weights + mean)"),
    Mutation(
        "models/generate.py", "off by one", "positions = (lengths + step - 1)", "positions = (lengths + step)"
    ),
    Mutation("models/generate.py", "formula", "scores[:, -1] / temperature", "scores[:, -1] * temperature"),
    Mutation(
        "training/losses.py",
        "dropped limit",
        "return jnp.maximum(jax.lax.stop_gradient(drift), 0.0)",
        "return jax.lax.stop_gradient(drift)",
    ),
    Mutation(
        "training/objectives.py",
        "swapped arguments",
        "- (reference_chosen - reference_rejected)",
        "- (reference_rejected - reference_chosen)",
    ),
    Mutation("training/rows.py", "off by one", "following = [*rows[1:], rows[0]]", "following = [*rows]"),
    Mutation(
        "evaluation/refusals.py",
        "dropped check",
        "[not is_broken(text) and ask(prompt, text) for",
        "[ask(prompt, text) for",
    ),
    Mutation("evaluation/item_bank.py", "boundary", "_inside(bank.lambdas, 1 + 1e-9)", "_inside(bank.lambdas, 1)"),
    Mutation(
        "data/batching.py",
        "dropped condition",
        "first_step % steps if epoch == first_step // steps else 0",
        "first_step % steps",
    ),
    Mutation("data/encoding.py", "boundary", "if len(prompt) >= max_length:", "if len(prompt) > max_length:"),
    Mutation(
        "pipeline/verification.py",
        "swapped arguments",
        'f"{file}: is not in the record" for file in sorted(there - set(recorded))',
        'f"{file}: is not in the record" for file in sorted(set(recorded) - there)',
    ),
)
