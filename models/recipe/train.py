"""Runs one phase of a plan for a given number of seconds, from a checkpoint to a checkpoint.

The schedule is a function of the time spent in the phase, not of steps: whatever the machine's speed, the learning
rate has fallen to its end when the time is over. A phase that was cut short (`--max-seconds`) goes on where it was.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from batches import Pools
from network import Model, ModelConfig, next_token_loss
from optimizer import MuonAdamW


class CsvWriter(Protocol):
    """What csv.writer returns; the standard library does not name it."""

    def writerow(self, row: list[object], /) -> object:
        """Writes one row."""


@dataclass(frozen=True)
class Phase:
    """How a stretch of training goes, from its start (fraction 0) to its end (fraction 1)."""

    length: int
    rows: int
    rate: tuple[float, float]
    mix_start: dict[str, float]
    mix_end: dict[str, float]
    warmup_steps: int = 0
    dropout: float = 0.0

    def rate_at(self, fraction: float, step_of_phase: int) -> float:
        """Learning rate: linear in time between both ends, behind a warm-up in steps."""
        start, end = self.rate
        warm = min(1.0, (step_of_phase + 1) / self.warmup_steps) if self.warmup_steps else 1.0
        return warm * (start + (end - start) * min(fraction, 1.0))

    def mix_at(self, fraction: float) -> dict[str, float]:
        """Weights of the pools."""
        names = {*self.mix_start, *self.mix_end}
        blend = min(fraction, 1.0)
        return {n: (1 - blend) * self.mix_start.get(n, 0.0) + blend * self.mix_end.get(n, 0.0) for n in names}


@dataclass
class Progress:
    """What has been done so far; saved with the weights."""

    phase: str = ""
    seconds: float = 0.0
    phase_steps: int = 0
    step: int = 0
    tokens: int = 0
    total_seconds: float = 0.0


class Run:
    """A model in training: weights, optimizer, progress."""

    def __init__(self, plan: dict[str, Any], phase_name: str, checkpoint: Path, init: Path | None, quick: bool) -> None:
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.phase = Phase(**plan["phases"][phase_name])
        self.config = ModelConfig(**plan["model"])
        torch.manual_seed(plan.get("seed", 0))
        self.model = Model(self.config, self.phase.dropout).to(self.device)
        self.optimizer = MuonAdamW(self.model, plan["decay"])
        self.progress = Progress()
        if init and not checkpoint.exists():
            self.model.load_state_dict(torch.load(init, map_location=self.device, weights_only=True)["model"])
        if checkpoint.exists():
            saved = torch.load(checkpoint, map_location=self.device, weights_only=True)
            self.model.load_state_dict(saved["model"])
            self.optimizer.load_state_dict(saved["optimizer"])
            self.progress = Progress(**saved["progress"])
        if self.progress.phase != phase_name:
            self.progress.phase, self.progress.seconds, self.progress.phase_steps = phase_name, 0.0, 0
        self.loss = next_token_loss
        if not quick:
            for block in self.model.blocks:
                block.compile(dynamic=False)
            self.loss = torch.compile(next_token_loss, dynamic=False)

    def train_step(self, pools: Pools, fraction: float) -> torch.Tensor:
        """One batch; returns the loss, still on the device."""
        self.model.train()
        ids, targets = pools.draw(self.phase.mix_at(fraction), self.phase.rows, self.phase.length)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda"):
            loss = self.loss(self.model(ids), self.model.embedding.weight, targets)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step(self.phase.rate_at(fraction, self.progress.phase_steps))
        self.progress.step += 1
        self.progress.phase_steps += 1
        self.progress.tokens += ids.numel()
        return loss.detach()

    def save(self, path: Path) -> None:
        """Checkpoint; written beside and moved, so that a cut leaves the old one whole."""
        part = path.with_suffix(".part")
        state = {
            "config": self.config.to_dict(), "model": self.model.state_dict(), "optimizer": self.optimizer.state_dict(),
            "progress": vars(self.progress),
        }  # fmt: skip
        torch.save(state, part)
        part.replace(path)


class Lagging:
    """Losses read two steps late, so that the host runs ahead of the device but not far."""

    def __init__(self) -> None:
        self.waiting: list[tuple[torch.Tensor, torch.cuda.Event | None]] = []

    def push(self, loss: torch.Tensor) -> None:
        """Starts the copy to the host."""
        event = None
        if loss.is_cuda:
            # Into pinned memory, or the copy itself would wait for every step queued.
            copy = torch.empty((), pin_memory=True)
            copy.copy_(loss, non_blocking=True)
            event = torch.cuda.Event()
            event.record()
            loss = copy
        self.waiting.append((loss, event))

    def pop(self, lag: int) -> list[float]:
        """Values of all but the last `lag` losses, waited for."""
        values = []
        while len(self.waiting) > lag:
            loss, event = self.waiting.pop(0)
            if event is not None:
                event.synchronize()
            values.append(float(loss))
        return values


@torch.no_grad()
def held_out(model: Model, pools: Pools, length: int = 1024, limit: int = 64) -> dict[str, float]:
    """Loss in nats a token for each held-out pool."""
    model.eval()
    model.eager = True
    device = pools.device.type
    result = {}
    for name in pools.names:
        ids, targets = pools.in_order(name, length, limit)
        total, count = 0.0, 0
        for rows in range(0, len(ids), 32):
            with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
                hidden = model(ids[rows : rows + 32])
                part = targets[rows : rows + 32]
                here = int((part >= 0).sum())
                total += float(next_token_loss(hidden, model.embedding.weight, part)) * here
                count += here
        result[name] = total / count
    model.eager = False
    return result


def report(
    run: Run, held: Pools, rows: CsvWriter, fraction: float, spent: float, recent: list[float], speed: float
) -> None:
    """One row of the log and one line of output: where the phase is, and the losses."""
    values = held_out(run.model, held)
    mean = sum(recent) / max(1, len(recent))
    progress = run.progress
    rate = run.phase.rate_at(fraction, progress.phase_steps)
    row: list[object] = [progress.phase, progress.step, progress.tokens, f"{progress.total_seconds + spent:.1f}"]
    rows.writerow([*row, f"{rate:.2e}", f"{mean:.4f}", *(f"{value:.4f}" for value in values.values())])
    shown = " ".join(f"{name} {value:.3f}" for name, value in values.items())
    where = f"{progress.phase} {spent:5.0f}s step {progress.step}"
    print(f"{where} train {mean:.3f} | {shown} | {speed:.2f} Mtok/s", flush=True)


def main() -> None:
    """Command line."""
    began = time.monotonic()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--plan", type=Path, default=Path(__file__).parent / "plan.json")
    parser.add_argument("--phase", required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--checkpoint", type=Path, required=True, help="read if it exists, written at the end")
    parser.add_argument("--init", type=Path, help="weights to begin with where there is no checkpoint (slim.py's file)")
    parser.add_argument("--seconds", type=float, required=True, help="length of the whole phase, compilation included")
    parser.add_argument("--max-seconds", type=float, default=math.inf, help="stop this call sooner; resume later")
    parser.add_argument("--log", type=Path, required=True, help="CSV, appended to")
    parser.add_argument("--eval-every", type=float, default=30.0, help="seconds between held-out losses")
    parser.add_argument("--no-compile", action="store_true")
    args = parser.parse_args()
    torch.set_float32_matmul_precision("high")
    plan = json.loads(args.plan.read_text())
    run = Run(plan, args.phase, args.checkpoint, args.init, args.no_compile)
    pools = Pools(args.data, "train", run.device, seed=run.progress.step)
    held = Pools(args.data, "held", run.device)
    already, done_tokens = run.progress.seconds, run.progress.tokens
    pending = Lagging()
    recent: list[float] = []
    next_eval = args.eval_every
    first_step = 0.0
    log_new = not args.log.exists()
    with args.log.open("a", newline="") as file:
        rows = csv.writer(file)
        if log_new:
            rows.writerow(["phase", "step", "tokens", "seconds", "rate", "train", *held.names])
        while True:
            spent = time.monotonic() - began
            fraction = (already + spent) / args.seconds
            over = fraction >= 1 or spent >= args.max_seconds
            if spent >= next_eval or over:
                next_eval = spent + args.eval_every
                recent += pending.pop(0)
                speed = (run.progress.tokens - done_tokens) / max(spent - first_step, 1e-9) / 1e6
                report(run, held, rows, fraction, spent, recent, speed)
                file.flush()
                recent = []
            if over:
                break
            pending.push(run.train_step(pools, fraction))
            for value in pending.pop(2):
                if first_step == 0.0:
                    first_step = time.monotonic() - began
                    done_tokens = run.progress.tokens
                    print(f"first steps done after {first_step:.1f}s, loss {value:.3f}", flush=True)
                if not math.isfinite(value):
                    raise SystemExit(f"loss is {value} at step {run.progress.step}: stopped, checkpoint left as it was")
                recent.append(value)
    spent = time.monotonic() - began
    run.progress.seconds += spent
    run.progress.total_seconds += spent
    run.save(args.checkpoint)
    print(f"saved {args.checkpoint} after {time.monotonic() - began:.1f}s, {run.progress.tokens / 1e6:.1f} M tokens")


if __name__ == "__main__":
    main()
