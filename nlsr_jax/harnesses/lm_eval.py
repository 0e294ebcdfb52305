r"""A base with an adapter as the model ``nlsr`` of lm-evaluation-harness.

Importing this module registers it. The harness has no entry points for models, so its command starts from here:

  python -m nlsr_jax.harnesses.lm_eval run --model nlsr --model_args base=DIR,adapter=DIR --tasks NAME,NAME

All other arguments are the harness's own. ``pretrained`` and ``peft`` are accepted for ``base`` and ``adapter``, so
that a command for the model ``hf`` runs as it is.

Source: ``HFLM`` of lm-evaluation-harness, whose tokens, windows and stop strings these are.
"""

import logging
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
from lm_eval.api.model import TemplateLM
from lm_eval.api.registry import register_model
from lm_eval.models.utils import handle_stop_sequences, normalize_gen_kwargs
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
from tqdm import tqdm

from nlsr_jax.errors import InputError
from nlsr_jax.harnesses.continuing import Sampling, answer_tokens, score_tokens
from nlsr_jax.harnesses.served import Served, open_served
from nlsr_jax.harnesses.stopping import TokenTexts

_LOG = logging.getLogger(__name__)
_AUTO_BATCH = 16
_MOST_TOKENS = 256
"""Longest answer where a task does not say, as in ``HFLM``."""
_INERT: Mapping[str, tuple] = {"top_p": (1, 1.0), "top_k": (0,), "num_beams": (1,), "repetition_penalty": (1, 1.0)}
"""Settings of generation that are accepted with values that change nothing."""


@register_model("nlsr")
class NlsrLM(TemplateLM):
    """A model of ``nlsr_jax`` for lm-evaluation-harness.

    Args:
      base: Hugging Face directory or hub id; by default the base that the adapter names.
      adapter: PEFT directory or hub id; by default none.
      pretrained, peft: other names of ``base`` and ``adapter``.
      tokenizer: directory of the tokenizer; by default the base's.
      dtype: float type of the base's weights.
      attention: ``plain`` or ``fused``.
      batch_size: requests per batch; ``auto`` for 16.
      max_length: context length in tokens; by default the model's.
      add_bos_token: whether texts begin with the tokenizer's special tokens; by default as the tokenizer does it.
      seed: of sampled answers.
      max_batch_size, device: accepted and not used; ``JAX_PLATFORMS`` chooses the device.

    Raises:
      InputError: files or settings that cannot be used.
    """

    def __init__(
        self,
        base: str | None = None,
        adapter: str | None = None,
        *,
        pretrained: str | None = None,
        peft: str | None = None,
        tokenizer: str | None = None,
        dtype: str = "float32",
        attention: str = "plain",
        batch_size: int | str = _AUTO_BATCH,
        max_length: int | None = None,
        add_bos_token: bool | None = None,
        seed: int = 0,
        max_batch_size: int | None = None,
        device: str | None = None,
    ):
        super().__init__()
        self.batch_size = _batch_size(batch_size)
        self.served: Served = open_served(
            _one_of("base", base, "pretrained", pretrained),
            _one_of("adapter", adapter, "peft", peft),
            tokenizer=tokenizer,
            dtype=dtype,
            attention=attention,
            max_length=max_length,
        )
        self.tokenizer = self.served.tokenizer
        self._add_bos, self._key = add_bos_token, jax.random.key(seed)
        self._texts, self._calls = TokenTexts(self.tokenizer), 0

    @property
    def eot_token_id(self) -> int:
        """The token that ends a text."""
        return self.tokenizer.eos_token_id

    @property
    def prefix_token_id(self) -> int:
        """The token before a text without context."""
        first = self.tokenizer.bos_token_id
        return self.eot_token_id if first is None else first

    @property
    def max_length(self) -> int:
        """Context length in tokens."""
        return self.served.max_length

    @property
    def tokenizer_name(self) -> str:
        """Name under which the harness keeps the requests that it has made with a chat template."""
        return str(self.tokenizer.name_or_path).replace("/", "__")

    def get_model_info(self) -> dict[str, Any]:
        """Return what the results say of the model."""
        leaves = jax.tree.leaves(self.served.params)
        return {
            "model_num_parameters": sum(math.prod(leaf.shape) for leaf in leaves),
            "model_dtype": str(self.served.params["embed"].dtype),
            "base": self.served.base,
            "adapter": self.served.adapter_path,
        }

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
        """Return the tokens of a text; one that begins with the BOS token gets no second one."""
        chosen = self._add_bos if add_special_tokens is None else add_special_tokens
        if add_special_tokens is None and string.startswith(self.tokenizer.decode(self.prefix_token_id)):
            chosen = False
        return self.tokenizer.encode(string, **({} if chosen is None else {"add_special_tokens": chosen}))

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """Return a conversation as the tokenizer's chat template renders it."""
        import jinja2

        render = self.tokenizer.apply_chat_template
        options = {
            "tokenize": False,
            "add_generation_prompt": add_generation_prompt,
            "continue_final_message": not add_generation_prompt,
        }
        try:
            return render(chat_history, **options)
        except jinja2.exceptions.TemplateError:
            _LOG.warning("the chat template fails with a system turn, which is left out")
            return render([turn for turn in chat_history if turn["role"] != "system"], **options)

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[Any, list[int], list[int]]], disable_tqdm: bool = False, **others: Any
    ) -> list[tuple[float, bool]]:
        pairs = [(context, continuation) for _, context, continuation in requests]
        scored = score_tokens(self.served, pairs, batch_size=self.batch_size)
        found: list[tuple[float, bool]] = [(0.0, False)] * len(pairs)
        for row, score in _shown(scored, len(pairs), "loglikelihood", disable_tqdm):
            found[row] = (score.log_likelihood, score.greedy)
        for (texts, _, _), value in zip(requests, found, strict=True):
            if texts is not None:
                self.cache_hook.add_partial("loglikelihood", texts, value)
        return found

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
        """Return the log-likelihood of whole texts, in windows of the context length."""
        windows = [self._windows(request.args[0]) for request in requests]
        asked = [(None, *window) for one in windows for window in one]
        scores = iter(self._loglikelihood_tokens(asked, disable_tqdm=disable_tqdm))
        found = [sum(next(scores)[0] for _ in one) for one in windows]
        for request, value in zip(requests, found, strict=True):
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, value)
        return found

    def _windows(self, text: str) -> list[tuple[list[int], list[int]]]:
        tokens = self.tok_encode(text)
        found = get_rolling_token_windows(tokens, self.prefix_token_id, self.max_length, context_len=1)
        return [make_disjoint_window(pair) for pair in found]

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """Return the answers to prompts, up to their stop strings."""
        groups: dict[Sampling, list[int]] = {}
        for row, request in enumerate(requests):
            groups.setdefault(self._sampling(request.args[1]), []).append(row)
        found = [""] * len(requests)
        for row, text in _shown(self._answers(requests, groups), len(requests), "generate_until", disable_tqdm):
            found[row] = text
            self.cache_hook.add_partial("generate_until", requests[row].args, text)
        return found

    def _answers(
        self, requests: Sequence[Any], groups: Mapping[Sampling, Sequence[int]]
    ) -> Iterator[tuple[int, str]]:
        for sampling, rows in groups.items():
            self._calls += 1
            prompts = [self.tok_encode(requests[row].args[0]) for row in rows]
            key = jax.random.fold_in(self._key, self._calls)
            options: dict[str, Any] = {"batch_size": self.batch_size, "key": key}
            for place, answer in answer_tokens(self.served, self._texts, prompts, sampling, **options):
                yield rows[place], answer.text

    def _sampling(self, given: Mapping[str, Any]) -> Sampling:
        """Return a request's settings; the text of the end token is a stop string too."""
        kwargs: dict[str, Any] = dict(normalize_gen_kwargs(dict(given), _MOST_TOKENS))
        end = self.tokenizer.decode(self.eot_token_id)
        stops = handle_stop_sequences(kwargs.pop("until"), eos=end)
        sampled, temperature = kwargs.pop("do_sample"), kwargs.pop("temperature", 0.0)
        most = kwargs.pop("max_gen_toks")
        for name, value in kwargs.items():
            if value is not None and value not in _INERT.get(name, ()):
                raise InputError(f"generation: {name}={value!r} is not supported; temperature is")
        return Sampling(most, tuple(stops), float(temperature) if sampled else 0.0)


def _shown(pairs: Iterator, total: int, name: str, hidden: bool) -> Iterator:
    return iter(tqdm(pairs, total=total, desc=f"Running {name} requests", disable=hidden))


def _one_of(name: str, value: str | None, other: str, same: str | None) -> str | None:
    """Return the value of an argument that has two names."""
    if value is not None and same is not None and value != same:
        raise InputError(f"{name} is {value} and {other} is {same}; give one of them")
    return same if value is None else value


def _batch_size(given: int | str) -> int:
    if isinstance(given, str) and given.partition(":")[0] == "auto":
        return _AUTO_BATCH
    if not str(given).isdecimal() or int(given) < 1:
        raise InputError(f"batch_size is {given!r}; expected a whole number of at least 1, or auto")
    return int(given)


def main() -> None:
    """Run the command of lm-evaluation-harness, which then knows the model ``nlsr``."""
    from lm_eval.__main__ import cli_evaluate

    try:
        cli_evaluate()
    except InputError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
