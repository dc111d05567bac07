"""The paper's road: SimMIM, supervised at the same resolution, fine-tuned at twice that; and its manifests."""

import json

import pytest

from swinmim.checkpoint.encoder import load_manifest
from swinmim.errors import CheckpointError

pytestmark = pytest.mark.slow


def test_pretraining_intermediate_and_fine_tuning_leave_a_chain_of_parents(tmp_path, run_pretrain, run_finetune):
    first, second, third = (tmp_path / name for name in ("pretrain", "intermediate", "finetune"))
    small = ("global_batch_size=20", "batch_size=20", "data.labels_per_class=4", "data.val_ratio=0.1")
    run_pretrain(first, "trainer.max_epochs=1")
    run_finetune(second, f"ckpt={first}", *small, "resolution=32", "optim.layer_decay=0.87", "trainer.max_epochs=1")
    run_finetune(third, f"ckpt={second}", *small, "resolution=64", "optim.layer_decay=0.75", "trainer.max_epochs=1")

    manifests = [load_manifest(run) for run in (first, second, third)]
    assert [manifest.resolution for manifest in manifests] == [(32, 32), (32, 32), (64, 64)]
    assert {manifest.pretrained_windows for manifest in manifests} == {((4, 4), (4, 4))}
    assert [len(manifest.parents) for manifest in manifests] == [0, 1, 2]
    assert manifests[2].parent == str(second)
    assert [ancestor.path for ancestor in manifests[2].parents] == [str(second), str(first)]
    for ancestor, manifest in zip(manifests[2].parents, (manifests[1], manifests[0]), strict=True):
        assert ancestor.recipe == manifest.recipe
        assert ancestor.data == manifest.data
        assert ancestor.data["fingerprint"]
        assert ancestor.metrics == manifest.metrics
        assert (ancestor.resolution, ancestor.created) == (manifest.resolution, manifest.created)
    assert [a.recipe["method"] for a in manifests[2].parents] == [
        "supervised fine-tuning",
        manifests[0].recipe["method"],
    ]
    assert "val/top1" in manifests[2].parents[0].metrics
    assert "val/recon_loss" in manifests[2].parents[1].metrics
    assert manifests[2].parents[0].recipe["optim"]["layer_decay"] == 0.87


def test_folders_of_earlier_versions_load_and_are_named(tmp_path, run_pretrain):
    run_pretrain(tmp_path / "run", "trainer.max_epochs=1")
    file = (tmp_path / "run" / "encoder" / "manifest.json").resolve()
    content = json.loads(file.read_text())
    del content["parents"]
    file.write_text(json.dumps(content | {"parent": "somewhere/else"}))
    manifest = load_manifest(tmp_path / "run")
    assert manifest.parents == ()
    assert [ancestor.path for ancestor in manifest.chain("here")] == ["here", "somewhere/else"]
    file.write_text(json.dumps(content | {"parents": [{"path": "x", "colour": "red"}]}))
    with pytest.raises(CheckpointError, match=r"manifest\.json is damaged: .*colour"):
        load_manifest(tmp_path / "run")
