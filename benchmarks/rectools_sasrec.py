"""Train RecTools' SASRec on stored histories, for `python -m benchmarks.training --rectools PYTHON`, which runs this file.

It runs in an interpreter with `rectools[torch]` and imports nothing of watchnext. The last line is one JSON object.
"""

import argparse
import json
import os
import resource
import time

import numpy as np
import pandas as pd
import pytorch_lightning as lightning
import torch
from rectools import Columns
from rectools.dataset import Dataset
from rectools.models import SASRecModel


class StepClock(lightning.Callback):
    """Wall and processor seconds and examples of all batches after the first `warm`."""

    def __init__(self, warm: int) -> None:
        self.warm, self.examples = warm, 0

    def on_train_batch_start(self, trainer, module, batch, step) -> None:
        if trainer.global_step == self.warm:
            self.wall, self.cpu = time.perf_counter(), time.process_time()

    def on_train_batch_end(self, trainer, module, outputs, batch, step) -> None:
        if trainer.global_step > self.warm:
            self.examples += int((batch["y"] > 0).sum())

    def on_train_end(self, trainer, module) -> None:
        self.wall, self.cpu = time.perf_counter() - self.wall, time.process_time() - self.cpu


def dataset_of(path: str, users: int) -> Dataset:
    """Load the histories of the first `users` viewers; the time of a watch is its position."""
    with np.load(path) as arrays:
        starts = arrays["starts"][: users + 1]
        rows = arrays["rows"][: starts[-1]]
    lengths = np.diff(starts)
    return Dataset.construct(
        pd.DataFrame(
            {
                Columns.User: np.repeat(np.arange(len(lengths)), lengths),
                Columns.Item: rows,
                Columns.Weight: 1.0,
                Columns.Datetime: pd.to_datetime(np.arange(len(rows)), unit="s"),
            }
        )
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("path")
    parser.add_argument("--users", type=int, required=True)
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--warm", type=int, required=True)
    options = parser.parse_args()
    torch.set_num_threads(len(os.sched_getaffinity(0)))

    def trainer() -> lightning.Trainer:
        quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
        return lightning.Trainer(
            max_epochs=-1,
            max_steps=options.warm + options.steps,
            accelerator="cpu",
            callbacks=[StepClock(options.warm)],
            **quiet,
        )

    dataset = dataset_of(options.path, options.users)
    model = SASRecModel(
        n_blocks=1,
        n_heads=2,
        n_factors=64,
        session_max_len=50,
        loss="sampled_softmax",
        n_negatives=256,
        batch_size=128,
        get_trainer_func=trainer,
    )
    model.fit(dataset)
    (clock,) = (callback for callback in model.fit_trainer.callbacks if isinstance(callback, StepClock))  # it trains on a copy
    result = {
        "users": options.users,
        "videos": dataset.item_id_map.size,
        "steps": options.steps,
        "examples": clock.examples,
        "examples_per_s": clock.examples / clock.wall,
        "examples_per_cpu_s": clock.examples / clock.cpu,
        "peak_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
