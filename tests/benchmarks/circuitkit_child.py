"""Node-level EAP-IG by circuitkit 0.2, run by the python of circuitkit's own environment: it imports nothing of ours.

`python -P circuitkit_child.py MODEL_FOLDER PROMPTS.csv DTYPE BATCH STEPS OUT.json`. PROMPTS.csv has a row a prompt:
clean, corrupted (texts), correct_idx, incorrect_idx (token ids). OUT.json gets seconds and memory of `discover` alone
(model loaded, everything imported), the scores by node, and the token ids that circuitkit made of the clean texts.
Run it in an empty folder: circuitkit leaves files behind.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import circuitkit
import circuitkit.api
from circuitkit.backends.eap.eap_utils import collate_EAP, tokenize_batch_pair
from circuitkit.data.eap_dataset import EAPDiscoveryDataset
from circuitkit.tasks.builtins.ioi import IOITaskSpec
from torch.utils.data import DataLoader


class Given(IOITaskSpec):
    """circuitkit's IOI with prompts from a file; its metric, the logit difference, is kept.

    `templated` says that the texts bring their own first token: without it circuitkit puts one in front, and would
    run other prompts than we do.
    """

    name = "given"

    def __init__(self, file: str) -> None:
        super().__init__()
        self.file = file

    def build_dataloader(self, model, discovery_cfg, device):
        loader = DataLoader(
            EAPDiscoveryDataset(self.file, templated=True),
            batch_size=discovery_cfg["batch_size"],
            collate_fn=collate_EAP,
        )
        loader.pair_padding_side, loader.templated = "right", True
        return loader


def main() -> None:
    """Load, run once, write what was found."""
    folder, file, dtype, batch, steps, out = sys.argv[1:]
    task = Given(file)
    circuitkit.register_task(task)
    model = circuitkit.load_model(folder, dtype=dtype)
    rows = len(EAPDiscoveryDataset(file))
    clean, corrupted, _ = next(iter(task.build_dataloader(model, {"batch_size": rows}, "cpu")))
    tokens = tokenize_batch_pair(model, clean, corrupted, pair_padding_side="right", templated=True)[0]
    before = status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")
    begun = time.perf_counter()
    circuit = circuitkit.discover(
        model, "given", algorithm="eap-ig", n_examples=rows, batch_size=int(batch), ig_steps=int(steps)
    )
    seconds = time.perf_counter() - begun
    peak = status("VmHWM")
    found = {
        "seconds": seconds,
        "memory_mib": (peak - before) / 1024,
        "peak_mib": peak / 1024,
        "scores": {name: float(score) for name, score in circuit.scores.items()},
        "tokens": tokens.tolist(),
    }
    Path(out).write_text(json.dumps(found))


def status(name: str) -> int:
    """KiB, from the operating system."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name))


if __name__ == "__main__":
    main()
