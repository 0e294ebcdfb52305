"""Folders that the project takes for outputs of its own."""

import hashlib
import json

RUN = {"settings": {"epochs": 1}, "start": "0" * 64, "base": "1" * 64, "rows": "2" * 64}
"""What makes a training run the one it is, in short."""


def save_training(folder, text="old"):
    """Make ``folder`` the output of a training, with ``text`` for its adapter; returns it."""
    folder.mkdir(parents=True, exist_ok=True)
    outputs = {"adapter_config.json": hashlib.sha256(text.encode()).hexdigest()}
    (folder / "training.json").write_text(json.dumps({**RUN, "outputs": outputs}))
    (folder / "adapter_config.json").write_text(text)
    return folder
