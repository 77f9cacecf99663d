"""Strips a checkpoint to its weights in half precision: what convert.py and evaluate.py read, and what is kept."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("out", type=Path)
    args = parser.parse_args()
    saved = torch.load(args.checkpoint, map_location="cpu", weights_only=True)
    model = {name: weight.half() for name, weight in saved["model"].items()}
    torch.save({"config": saved["config"], "model": model, "progress": saved["progress"]}, args.out)


if __name__ == "__main__":
    main()
