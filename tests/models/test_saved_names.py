"""No saved image takes another's place: folders, suffixes, several sets, and the toolbox's own models."""

from pathlib import Path

import pytest
from basicsr.models.sr_model import SRModel
from model_helpers import StubSet, build, options
from torch.utils.data import DataLoader

from unirain_plugin.data.distilled_mixed_dataset import DistilledMixedPairedDataset
from unirain_plugin.data.manifest import ManifestRecord, write_manifest
from unirain_plugin.models.validating import names_by_type, path_in_saved_names, saved_path, unique_names
from unirain_plugin.toolbox import replaced


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["drs/input/1.png", "drs/input/2.png"], ["1", "2"]),
        (["/d/A/input/1.png", "/d/B/input/1.png"], ["A/input/1", "B/input/1"]),
        (["x/a.png", "x/a.jpg", "x/a-2.png"], ["a", "a-3", "a-2"]),
        (["a_b/c.png", "a/b_c.png"], ["a_b/c", "a/b_c"]),
        (["../A/x.png", "A/x.png", "./A/y.png"], ["A/x", "A/x-2", "A/y"]),
        (["/A/x.png", "A/x.png"], ["A/x", str(Path.cwd() / "A/x")[1:]]),
        (["key", "folder/key"], ["key", "folder/key"]),
        (["caf\udce9.v2.png"], ["caf\udce9.v2"]),
        ([], []),
    ],
)
def test_a_name_is_the_path_below_what_is_shared(paths, names):
    assert unique_names(paths) == names


def test_a_set_of_absolute_and_relative_paths_names_its_images(rainrag_root):
    records = [
        ManifestRecord(f"{folder}/input/{i:03d}.png", f"{folder}/target/{i:03d}.png", "drs")
        for i, folder in enumerate((rainrag_root / "drs", "drs"))
    ]
    write_manifest(rainrag_root / "m.jsonl", records)
    opt = {"phase": "val", "manifest": str(rainrag_root / "m.jsonl"), "io_backend": {"type": "disk"}}
    assert names_by_type(DistilledMixedPairedDataset(opt)) == ["000", "001"]


class ListedSet(StubSet):
    """Images in folders, as the toolbox's sets list them."""

    NAMES = ("A/1.png", "B/1.png", "a_b/c.png", "a/b_c.png", "B/1.jpg", "B/caf\udce9.png")

    def __init__(self, opt, labelled=False):
        super().__init__({**opt, "length": len(self.NAMES), "labelled": labelled})
        self.paths = [{"lq_path": f"/data/{name}", "gt_path": ""} for name in self.NAMES]

    def __getitem__(self, index):
        return {**super().__getitem__(index), "lq_path": self.paths[index]["lq_path"]}


def saved_by(model, tmp_path, *names):
    for name in names:
        loader = DataLoader(ListedSet({"name": name}), batch_size=1)
        with replaced(path_in_saved_names()):
            model.validation(loader, 8, None, save_img=True)
    root = tmp_path / "visualization"
    return sorted(str(path.relative_to(root)) for path in root.rglob("*_*.png") if "routing" not in path.parts)


def test_our_model_keeps_folders_and_several_sets_of_a_training_run_have_their_own(tmp_path):
    opt = options(tmp_path, is_train=False, val={"suffix": "r"})
    names = ["A/1_r.png", "B/1-2_r.png", "B/1_r.png", "B/caf\udce9_r.png", "a/b_c_r.png", "a_b/c_r.png"]
    assert saved_by(build(opt), tmp_path, "one", "two") == [f"{name}/{n}" for name in ("one", "two") for n in names]
    opt |= {"is_train": True, "datasets": {"train": {}, "val_1": {}, "val_2": {}}}
    opt["path"]["visualization"] = str(tmp_path / "training/visualization")
    found = saved_by(build(opt), tmp_path / "training", "one", "two")
    assert len(found) == 12 and "two/B/1/1_8.png" in found


def test_the_toolboxs_models_keep_all(tmp_path):
    class Stock(SRModel):
        def __init__(self, opt):
            self.opt, self.is_train = opt, opt["is_train"]

        def feed_data(self, data):
            self.lq = data["lq"]

        def test(self):
            self.output = self.lq

        def get_current_visuals(self):
            return {"result": self.output}

    opt = {"is_train": False, "dist": False, "name": "run", "val": {"suffix": None},
           "path": {"visualization": str(tmp_path / "visualization")}}  # fmt: skip
    found = saved_by(Stock(opt), tmp_path, "one", "two")
    names = ["A_1_run.png", "B_1-2_run.png", "B_1_run.png", "B_caf\ufffd_run.png", "a_b_c-2_run.png", "a_b_c_run.png"]
    assert found == [f"{name}/{file}" for name in ("one", "two") for file in names]


def test_types_have_folders_too():
    opt = {"is_train": False, "path": {"visualization": "v"}, "name": "t", "val": {}}
    assert saved_path(opt, "set", "a/1", "drs", 0) == Path("v/set/drs/a/1_t.png")
    assert ".." not in saved_path(opt, "../../set", "a/1", "drs", 0).parts
    assert saved_path(opt, "/set", "a/1", None, 0).is_relative_to("v")
    assert saved_path({**opt, "is_train": True}, "set", "a/1", "drs", 7) == Path("v/drs_a/1/drs_1_7.png")
