"""What a user would run instead of `nlsr realign`: the same steps in PyTorch, transformers and PEFT, file to file.

  python -m benchmarks.torch_realign --method recommended --base DIR --finetuned DIR --calibration FILE \
      --harmless FILE --shares 0.02,0.05 --likelihoods 3 --share 0.03 --output OUT
  python -m benchmarks.torch_realign --method published --base DIR --weak DIR --aligned DIR --finetuned DIR \
      --calibration FILE --output OUT
  python -m benchmarks.torch_realign --method safelora|resta --base DIR --pretrained DIR --finetuned DIR \
      --output OUT

`recommended`: an adapter that was trained on the aligned model itself. The losses of both models on the safe
answers say whether fine-tuning has taken these. The gradient of the loss gives every entry of B the gain of setting
it to zero, or beyond it by --strength; the fine-tuned model, the aligned one and every share of --shares answer the
prompts, --likelihoods of refusals are measured; --share of the entries is written. The caller gives the shares, so
the search itself takes no time. The gradients of both halves of the rows are summed as `nlsr realign` does.
`published`: the paper's algorithm, see `benchmarks.published`. These two read the base in --dtype. `safelora`: the
program of its authors: C = V Vᵀ / ‖V‖ of every module, B ← C B where the cosine of the two updates is low. `resta`:
the safety vector is added to the full fine-tuned model. The seconds of every stage go to OUT/seconds.json.
"""

import json
import pathlib
from typing import NamedTuple

from absl import app, flags

from benchmarks.torch_steps import (
    BATCH,
    SECONDS,
    Inputs,
    add_gradients,
    answers,
    by_length,
    encode,
    encode_prompt,
    factors_of,
    likelihood,
    load,
    mean_loss,
    padded,
    read,
    stage,
)

FLAGS = flags.FLAGS
BETA, SPARSITY, PROBABILITY, INCREMENT = 0.9, 0.8, 0.3, 0.4
TAU, GAMMA = 0.5, 1.0


class Options(NamedTuple):
    """Folders and files, and the shares of the entries; see the flags."""

    base: str
    finetuned: str
    output: str
    pretrained: str = ""
    weak: str = ""
    aligned: str = ""
    calibration: str = ""
    harmless: str = ""
    shares: tuple[float, ...] = ()
    share: float = 0.02
    likelihoods: int = 0
    dtype: str = "float32"
    strength: float = 1.0


SETTINGS = ("shares", "share", "likelihoods", "dtype", "strength")


class Repair:
    """Moves the entries of B with the largest gains, ``max(0, ∂L/∂B · B)``, to zero and beyond.

    Args:
      model: with gradients.
      strength: what an entry is multiplied by is one less this.
    """

    def __init__(self, model, strength: float):
        self._left = 1 - strength
        found = [(name, value) for name, value in model.named_parameters() if value.requires_grad]
        self._total = sum(value.numel() for _, value in found)
        self._factors = [value for name, value in found if "lora_B" in name]
        self._own = [value.detach().clone() for value in self._factors]

    def gains(self):
        """Return the gains of all entries, from the gradients so far."""
        import torch

        parts = [(value.grad * own).flatten() for value, own in zip(self._factors, self._own, strict=True)]
        return torch.cat(parts).clamp(min=0)

    def apply(self, gains, share: float) -> None:
        """Write the repair with a share of all entries into the model."""
        import torch

        best = torch.topk(gains, round(share * self._total))
        chosen = torch.zeros_like(gains, dtype=torch.bool)
        chosen[best.indices[best.values > 0]] = True
        parts = chosen.split([value.numel() for value in self._factors])
        with torch.no_grad():
            for value, own, part in zip(self._factors, self._own, parts, strict=True):
                value.copy_(torch.where(part.view_as(own), own * self._left, own))


def recommended(given: Options) -> None:
    """Refine the share by answers, and write the repair with the share that was found."""
    with stage("load"):
        tokenizer, model = load(given.base, given.finetuned, trained=True, dtype=given.dtype)
    with stage("encode"):
        rows = encode(tokenizer, given.calibration)
        harmless = [encode_prompt(tokenizer, row["prompt"]) for row in read(given.harmless)]
        prompts = [row.ids[: row.start] for row in rows[1::2]] + harmless
    with stage("answers"):
        mean_loss(model, rows[::2])
        with model.disable_adapter():
            mean_loss(model, rows[::2])
    with stage("refine"):
        add_gradients(model, rows[::2])
        repair = Repair(model, given.strength)
        gains = repair.gains()
        answers(model, tokenizer, prompts)
        harmful = sorted(prompts[: len(rows) // 2], key=len)
        with model.disable_adapter():
            refusals = answers(model, tokenizer, harmful)
            answers(model, tokenizer, harmless)
        for share in given.shares:
            repair.apply(gains, share)
            answers(model, tokenizer, prompts)
        for _ in range(given.likelihoods):
            likelihood(model, harmful, refusals)
        repair.apply(gains, 0.0)
    with stage("calibrate"):
        add_gradients(model, rows[1::2])
    with stage("write"):
        repair.apply(repair.gains(), given.share)
        model.save_pretrained(given.output)


def published(given: Options) -> None:
    """Amplify, identify, compare, choose and transplant as the paper does."""
    import torch
    from peft import PeftModel

    from benchmarks.published import identify, mask, similarity

    with stage("load"):
        tokenizer, model = load(given.base, given.aligned, dtype=given.dtype)
        weak, aligned, tuned = map(factors_of, (given.weak, given.aligned, given.finetuned))
    with stage("encode"):
        rows = encode(tokenizer, given.calibration)
    with stage("calibrate"), torch.inference_mode():
        reference = {
            name: tuple(a + BETA * (a - w) for a, w in zip(aligned[name], weak[name], strict=True))
            for name in aligned
        }
        parameters = dict(model.named_parameters())
        for name, pair in reference.items():
            for part, value in zip("AB", pair, strict=True):
                parameters[f"{name}.lora_{part}.default.weight"].copy_(value)
        inputs = Inputs(model)
        for batch in by_length(rows, BATCH, lambda row: len(row.ids)):
            tokens, attend = padded([row.ids for row in batch], "right")
            inputs.keep = attend.bool()
            for place, row in enumerate(batch):
                inputs.keep[place, : row.start] = False
            model(input_ids=tokens, attention_mask=attend, logits_to_keep=1)
    with stage("identify"), torch.inference_mode():
        masks, cosines = {}, []
        for name, (a, b) in reference.items():
            kept = max(1, round(len(a) * (1 - SPARSITY)))
            found = identify(a, b, inputs.of(name), kept)
            masks[name] = tuple(mask(one.abs(), round(one.numel() * (1 - SPARSITY))) for one in found)
            cosines.append(similarity((a, b), tuned[name], masks[name]))
    with stage("write"), torch.inference_mode():
        rank = torch.empty(len(cosines)).scatter_(
            0, torch.tensor(cosines).argsort(), torch.arange(1.0, len(cosines) + 1)
        )
        alone = torch.bernoulli((PROBABILITY + INCREMENT * rank / len(cosines)).clamp(0, 1)).bool()
        model = PeftModel.from_pretrained(model.unload(), given.finetuned)
        parameters = dict(model.named_parameters())
        for (name, pair), left in zip(reference.items(), alone.tolist(), strict=True):
            for part, value, chosen in zip("AB", pair, masks[name], strict=True):
                if not left:
                    own = parameters[f"{name}.lora_{part}.default.weight"]
                    own.copy_(torch.where(chosen, value, own))
        model.save_pretrained(given.output)


def safelora(given: Options) -> None:
    """Project modules onto the alignment's update, as its authors' program does."""
    import torch

    with stage("load"):
        _, model = load(given.base, given.finetuned)
        _, unaligned = load(given.pretrained)
    with stage("project"), torch.inference_mode():
        before = dict(unaligned.named_parameters())
        modules = dict(model.named_modules())
        for name, module in modules.items():
            if not hasattr(module, "lora_B"):
                continue
            plain = f"{name.removeprefix('base_model.model.')}.weight"
            vector = module.base_layer.weight - before[plain]
            projection = vector @ vector.T / torch.linalg.norm(vector)
            a, b = module.lora_A["default"].weight, module.lora_B["default"].weight
            changed = projection @ b
            cosine = torch.nn.functional.cosine_similarity((changed @ a).flatten(), (b @ a).flatten(), dim=0)
            if cosine <= TAU:
                b.copy_(changed)
    with stage("write"):
        model.save_pretrained(given.output)


def resta(given: Options) -> None:
    """Add the safety vector to the full fine-tuned model."""
    import torch

    with stage("load"):
        _, model = load(given.base, given.finetuned)
        _, aligned = load(given.base)
        _, unaligned = load(given.pretrained)
    with stage("add"), torch.inference_mode():
        merged = model.merge_and_unload()
        parts = zip(merged.parameters(), aligned.parameters(), unaligned.parameters(), strict=True)
        for value, safe, unsafe in parts:
            value.add_(safe - unsafe, alpha=GAMMA)
    with stage("write"):
        merged.save_pretrained(given.output)


METHODS = {"recommended": recommended, "published": published, "safelora": safelora, "resta": resta}


def main(_) -> None:
    """Run one method and write its seconds."""
    with stage("import"):
        import peft
        import torch
        import transformers

        transformers.utils.logging.set_verbosity_error()
        torch.manual_seed(0)
        del peft
    names = (name for name in Options._fields if name not in SETTINGS)
    given = {name: FLAGS[name].value for name in names}
    given |= {name: FLAGS[name].value for name in SETTINGS} | {"shares": tuple(map(float, FLAGS.shares))}
    METHODS[FLAGS.method](Options(**given))
    (pathlib.Path(FLAGS.output) / "seconds.json").write_text(json.dumps(SECONDS))


if __name__ == "__main__":
    flags.DEFINE_enum("method", None, list(METHODS), "What to run.", required=True)
    for flag in (name for name in Options._fields if name not in SETTINGS):
        flags.DEFINE_string(flag, "", f"The {flag} folder or file.")
    flags.DEFINE_list("shares", [], "Shares of the entries that are tried.")
    flags.DEFINE_float("share", 0.02, "Share of the entries that is written.")
    flags.DEFINE_float("strength", 1.0, "How far an entry moves towards zero: 1 reaches it, more goes beyond.")
    flags.DEFINE_enum("dtype", "float32", ["float32", "bfloat16"], "Dtype of the base.")
    flags.DEFINE_integer("likelihoods", 0, "How often the likelihood of refusals is measured.")
    app.run(main)
