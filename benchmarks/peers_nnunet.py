"""nnU-Net 2D for benchmarks/peers.py, run by a Python that has it: plan, train for a wall time, predict.

    PYTHON benchmarks/peers_nnunet.py FOLDER SECONDS

FOLDER holds cases/, labels/, inputs/ and job.json. Plan, network, loss, augmentation, optimizer, inference and the
polynomial decay of the rate are nnU-Net's own; its 1000 epochs of 250 steps become as many steps as fit, the decay
going by time instead of by epochs. It trains on all cases ("fold all"), so nothing is validated. Planning counts as
time. A training that was stopped goes on from its last checkpoint.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from pathlib import Path
from typing import Any

DATASET = "Dataset001_Peer"
CHECKPOINT_S = 60.0


def prepare(folder: Path, job: dict[str, Any]) -> None:
    """Lay the cases out, extract the fingerprint, plan, preprocess."""
    from nnunetv2.experiment_planning.plan_and_preprocess_api import extract_fingerprints, plan_experiments, preprocess

    raw = folder / "raw" / DATASET
    for source, target in (("cases", "imagesTr"), ("labels", "labelsTr")):
        shutil.copytree(folder / source, raw / target, dirs_exist_ok=True)
    description = {
        "channel_names": {str(c): f"channel {c}" for c in range(job["channels"])},
        "labels": {"background": 0, "inside": 1},
        "numTraining": job["training"],
        "file_ending": ".tif",
        "overwrite_image_reader_writer": "NaturalImage2DIO",
    }
    (raw / "dataset.json").write_text(json.dumps(description))
    extract_fingerprints([1], num_processes=1, show_progress_bar=False)
    plan_experiments([1])
    preprocess([1], configurations=("2d",), num_processes=(1,), show_progress_bar=False)


def make_trainer(device: str) -> Any:
    """Return nnU-Net's own trainer of the planned 2D network, on all cases."""
    import torch
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    folder = Path(os.environ["nnUNet_preprocessed"]) / DATASET  # noqa: SIM112 - as nnU-Net spells it
    plans = json.loads((folder / "nnUNetPlans.json").read_text())
    plans["continue_training"] = False
    description = json.loads((folder / "dataset.json").read_text())
    trainer = nnUNetTrainer(plans, "2d", "all", description, device=torch.device(device))
    trainer.initialize()
    return trainer


def train(trainer: Any, folder: Path, budget_s: float, spent_s: float) -> tuple[int, float]:
    """Train until the time is up; return steps and seconds, those before a stop included."""
    import torch

    path, steps = folder / "checkpoint.pt", 0
    if path.exists():
        state = torch.load(path, weights_only=True)
        trainer.network.load_state_dict(state["network"])
        trainer.optimizer.load_state_dict(state["optimizer"])
        steps, spent_s = state["steps"], state["seconds"]
    begin = saved = time.monotonic()
    trainer.on_train_start()
    trainer.network.train()
    while (share := (spent_s + time.monotonic() - begin) / budget_s) < 1:
        for group in trainer.optimizer.param_groups:
            group["lr"] = trainer.initial_lr * (1 - share) ** 0.9
        trainer.train_step(next(trainer.dataloader_train))
        steps += 1
        if time.monotonic() - saved > CHECKPOINT_S:
            saved = time.monotonic()
            _save(trainer, path, steps, spent_s + saved - begin)
    seconds = spent_s + time.monotonic() - begin
    _save(trainer, path, steps, seconds)
    return steps, seconds


def _save(trainer: Any, path: Path, steps: int, seconds: float) -> None:
    import torch

    state = {"network": trainer.network.state_dict(), "optimizer": trainer.optimizer.state_dict()}
    torch.save({**state, "steps": steps, "seconds": seconds}, path.with_suffix(".part"))
    path.with_suffix(".part").replace(path)


def predict(trainer: Any, folder: Path, channels: int) -> None:
    """Write the probability of the inside of every input: ``out/NAME.npy``, ``(Y, X) float32``."""
    import numpy as np
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    predictor = nnUNetPredictor(device=trainer.device, allow_tqdm=False)
    trainer.set_deep_supervision_enabled(False)
    predictor.manual_initialization(
        trainer.network,
        trainer.plans_manager,
        trainer.configuration_manager,
        [trainer.network.state_dict()],
        trainer.dataset_json,
        "nnUNetTrainer",
        trainer.inference_allowed_mirroring_axes,
    )
    (folder / "out").mkdir(exist_ok=True)
    names = {p.name[: -len("_0000.tif")] for p in (folder / "inputs").iterdir()}
    for name in sorted(names - {p.stem for p in (folder / "out").glob("*.npy")}):
        files = [str(folder / "inputs" / f"{name}_{c:04d}.tif") for c in range(channels)]
        ((_, probabilities),) = predictor.predict_from_files_sequential([files], None, save_probabilities=True)
        inside = np.asarray(probabilities[1], np.float32)
        part = folder / "out" / f"{name}.part"
        with part.open("wb") as file:
            np.save(file, inside.reshape(inside.shape[-2:]))
        part.rename(folder / "out" / f"{name}.npy")


def main(folder: Path, budget_s: float) -> None:
    """Do all of it."""
    begin = time.monotonic()
    for name in ("raw", "preprocessed", "results"):
        (folder / name).mkdir(exist_ok=True)
        os.environ[f"nnUNet_{name}"] = str(folder / name)
    import torch

    job = json.loads((folder / "job.json").read_text())
    if not (folder / "prepared").exists():
        prepare(folder, job)
        (folder / "prepared").write_text(str(time.monotonic() - begin))
    # No worker processes: they would take the cores from the training.
    os.environ["nnUNet_n_proc_DA"] = "0"  # noqa: SIM112
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    trainer = make_trainer(device)
    steps, seconds = train(trainer, folder, budget_s, float((folder / "prepared").read_text()))
    predict(trainer, folder, job["channels"])
    plan = trainer.configuration_manager
    told = {"steps": steps, "train_s": round(seconds, 1), "batch": plan.batch_size, "patch": list(plan.patch_size)}
    (folder / "done.json").write_text(json.dumps({**told, "device": device}) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), float(sys.argv[2]))
