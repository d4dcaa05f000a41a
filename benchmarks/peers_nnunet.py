"""nnU-Net for benchmarks/peers.py, run by a Python that has it: plan and train for a wall time, predict.

    PYTHON benchmarks/peers_nnunet.py train CASES FOLDER SECONDS
    PYTHON benchmarks/peers_nnunet.py predict CASES FOLDER INPUTS OUT

Plan, network, loss, augmentation, optimizer, inference with mirroring and the polynomial decay of the rate are
nnU-Net's own: ``2d`` of images, ``3d_fullres`` of volumes. Its 1000 epochs of 250 steps become as many steps as fit,
the decay going by time instead of by epochs. It trains on all cases ("fold all"), so nothing is validated.
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


def set_up(folder: Path) -> None:
    """Name nnU-Net's folders, before it is imported."""
    for name in ("raw", "preprocessed", "results"):
        (folder / name).mkdir(parents=True, exist_ok=True)
        os.environ[f"nnUNet_{name}"] = str(folder / name)


def prepare(cases: Path, folder: Path, job: dict[str, Any]) -> None:
    """Lay the cases out, extract the fingerprint, plan, preprocess."""
    from nnunetv2.experiment_planning.plan_and_preprocess_api import extract_fingerprints, plan_experiments, preprocess

    raw = folder / "raw" / DATASET
    shutil.copytree(cases / "images", raw / "imagesTr")
    shutil.copytree(cases / ("inside" if job["kind"] == "objects" else "labels"), raw / "labelsTr")
    description = {
        "channel_names": {str(c): f"channel {c}" for c in range(job["channels"])},
        "labels": {"background": 0} | {f"class {k}": k for k in range(1, job["classes"])},
        "numTraining": len(list((raw / "labelsTr").iterdir())),
        "file_ending": ".tif",
        "overwrite_image_reader_writer": "NaturalImage2DIO" if job["axes"] == 2 else "Tiff3DIO",
    }
    (raw / "dataset.json").write_text(json.dumps(description))
    extract_fingerprints([1], num_processes=1, show_progress_bar=False)
    plan_experiments([1])
    preprocess([1], configurations=(configuration(job),), num_processes=(1,), show_progress_bar=False)


def configuration(job: dict[str, Any]) -> str:
    """Return the name of the configuration that is trained."""
    return "2d" if job["axes"] == 2 else "3d_fullres"


def make_trainer(folder: Path, job: dict[str, Any]) -> Any:
    """Return nnU-Net's own trainer of the planned network, on all cases."""
    import torch
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    torch.manual_seed(0)
    planned = folder / "preprocessed" / DATASET
    plans = json.loads((planned / "nnUNetPlans.json").read_text())
    plans["continue_training"] = False
    description = json.loads((planned / "dataset.json").read_text())
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    trainer = nnUNetTrainer(plans, configuration(job), "all", description, device=device)
    trainer.initialize()
    return trainer


def train(cases: Path, folder: Path, budget_s: float) -> None:
    """Plan and train until the time is up."""
    begin = time.monotonic()
    from importlib.metadata import version

    import torch

    job = json.loads((cases / "job.json").read_text())
    prepare(cases, folder, job)
    # No worker processes: they would take cores from the training. Planning asks for one thread or more.
    os.environ["nnUNet_n_proc_DA"] = "0"  # noqa: SIM112 - as nnU-Net spells it
    trainer = make_trainer(folder, job)
    prepared = time.monotonic() - begin
    trainer.on_train_start()
    trainer.network.train()
    steps = 0
    while (share := (time.monotonic() - begin) / budget_s) < 1:
        for group in trainer.optimizer.param_groups:
            group["lr"] = trainer.initial_lr * (1 - share) ** 0.9
        trainer.train_step(next(trainer.dataloader_train))
        steps += 1
    torch.save(trainer.network.state_dict(), folder / "weights.pt")
    plan = trainer.configuration_manager
    told = {"steps": steps, "batch": plan.batch_size, "patch": list(plan.patch_size), "prepared_s": round(prepared, 1)}
    versions = {name: version(name) for name in ("nnunetv2", "torch")}
    (folder / "trained.json").write_text(json.dumps({**told, "versions": versions}) + "\n")


def predict(cases: Path, folder: Path, inputs: Path, out: Path) -> None:
    """Write ``NAME.npy``: of two classes the probability of class 1, float32; of more the classes, uint8."""
    import numpy as np
    import torch
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    job = json.loads((cases / "job.json").read_text())
    trainer = make_trainer(folder, job)
    trainer.network.load_state_dict(torch.load(folder / "weights.pt", weights_only=True))
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
    out.mkdir(exist_ok=True)
    for name in sorted({p.name[: -len("_0000.tif")] for p in inputs.glob("*.tif")}):
        files = [str(inputs / f"{name}_{c:04d}.tif") for c in range(job["channels"])]
        ((_, found),) = predictor.predict_from_files_sequential([files], None, save_probabilities=True)
        answer = np.asarray(found[1], np.float32) if len(found) == 2 else np.argmax(found, axis=0).astype(np.uint8)
        np.save(out / f"{name}.npy", answer.reshape(answer.shape[-job["axes"] :]))


if __name__ == "__main__":
    what, cases, folder, *rest = sys.argv[1:]
    set_up(Path(folder))
    if what == "train":
        train(Path(cases), Path(folder), float(rest[0]))
    else:
        predict(Path(cases), Path(folder), Path(rest[0]), Path(rest[1]))
