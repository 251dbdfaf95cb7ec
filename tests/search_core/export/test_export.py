"""A child that leaves: every file gives its logits, and needs nothing of this project."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.nn import functional

from search_core.errors import ExportError
from search_core.export import FORMATS, export_child, formats
from search_core.network.chain import Chain, ChildNetwork
from search_core.network.child import Child
from search_core.space.chain import Layer
from search_core.space.choices import Bits
from search_core.space.genotype import PUBLISHED, Edge, Genotype
from search_core.space.plan import NetworkOptions, NetworkSize

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.3, 0.25)
#: Node 3 has no inputs, node 0 is used by nothing; a stride of 2 for each kind of operation.
GAPS = Genotype(
    normal=(Edge("skip_connect", 1, 2), Edge("conv_7x1_1x7", 2, 4)),
    normal_concat=(2, 3, 4),
    reduce=(
        Edge("skip_connect", 0, 2),
        Edge("avg_pool_3x3", 1, 2),
        Edge("dil_conv_5x5", 1, 3),
        Edge("sep_conv_7x7", 0, 4),
    ),
    reduce_concat=(2, 3, 4),
)
CHILDREN = {
    "SNAS_mild": (PUBLISHED["SNAS_mild"], "cifar", 9),
    "NASNet": (PUBLISHED["NASNet"], "cifar", 8),  # pools without batch norm
    "gaps": (GAPS, "cifar", 7),
    "stacked": (
        Genotype(
            normal=(Edge("skip_connect", 0, 2), Edge("sep_conv_3x3", 0, 2), Edge("skip_connect", 2, 3)),
            normal_concat=(3,),
            reduce=(Edge("max_pool_3x3", 0, 2), Edge("skip_connect", 1, 2)),
            reduce_concat=(2,),
            normal_stacked=(2,),
            reduce_stacked=(2,),
        ),
        "cifar",
        8,
    ),
    "chain": (
        Genotype(
            normal=(Edge("conv_3x1", 0, 2), Edge("conv_1x5", 0, 3), Edge("conv_1x5", 2, 3), Edge("conv_3x3", 0, 4)),
            normal_concat=(3, 4),
            reduce=(),
            reduce_concat=(),
            layers=(Layer(4, 2, 3), Layer(6), Layer(2, 1, 2)),
        ),
        "cifar",
        7,
    ),
    "no edge": (Genotype(normal=(), normal_concat=(2,), reduce=(), reduce_concat=(2,)), "cifar", 8),
    "ImageNet's stem": (PUBLISHED["DARTS_V2"], "imagenet", 33),
}


def trained(name: str) -> tuple[ChildNetwork, torch.Tensor]:
    """A child whose weights and statistics are not those that it began with, and images in [0, 1]."""
    genotype, stem, side = CHILDREN[name]
    size = NetworkSize(NetworkOptions(cells=4, init_channels=4, stem=stem), (3, side, side), 5)
    is_chain, auxiliary = bool(genotype.layers), side > 8
    child = Chain(genotype, size, seed=1) if is_chain else Child(genotype, size, auxiliary=auxiliary, seed=1)
    images = torch.rand(16, 3, side, side, generator=torch.Generator().manual_seed(2))
    optimiser = torch.optim.SGD(child.parameters(), lr=0.05)
    for _ in range(2):
        optimiser.zero_grad()
        functional.cross_entropy(child(images), torch.arange(16) % 5).backward()
        optimiser.step()
    return child.eval(), images


@pytest.mark.parametrize(
    "name", [name if name == "gaps" else pytest.param(name, marks=pytest.mark.slow) for name in CHILDREN]
)
def test_python_weights_and_program_give_the_logits_of_the_child(name: str, tmp_path: Path) -> None:
    child, images = trained(name)
    wanted = ("python", "state-dict", *(["pt2"] if name == "gaps" else []))
    found = export_child(child, tmp_path, images, title=name, mean=MEAN, std=STD, formats=wanted)
    assert [file.format for file in found] == list(wanted)
    assert all(file.difference < 1e-6 for file in found)
    assert {path.name for path in tmp_path.iterdir()} == {FORMATS[name] for name in wanted}
    source = (tmp_path / "child.py").read_text(encoding="utf-8")
    assert not [line for line in source.splitlines() if len(line) > 120]


@pytest.mark.slow
def test_files_work_where_this_project_is_not(tmp_path: Path) -> None:
    """In a process that imports PyTorch and ONNX' runtime alone: other batches, training on, the same logits."""
    child, images = trained("SNAS_mild")
    export_child(child, tmp_path, images, title="a cell", mean=MEAN, std=STD)
    mean, std = (torch.tensor(values).reshape(1, -1, 1, 1) for values in (MEAN, STD))
    with torch.no_grad():
        torch.save({"images": images[:3], "logits": child((images[:3] - mean) / std)}, tmp_path / "expected.pt")
    program = """
import sys; sys.path.insert(0, ".")
import onnxruntime, torch
from child import child
found = torch.load("expected.pt", weights_only=True)
images, logits = found["images"], found["logits"]
model = child()
model.load_state_dict(torch.load("state_dict.pt", weights_only=True))
with torch.no_grad():
    assert torch.allclose(model.eval()(images), logits, atol=1e-5)
    assert torch.allclose(torch.export.load("child.pt2").module()(images), logits, atol=1e-5)
answer, = onnxruntime.InferenceSession("child.onnx").run(None, {"images": images.numpy()})
assert torch.allclose(torch.from_numpy(answer), logits, atol=1e-5)
model.train()
optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
losses = []
for _ in range(5):
    optimiser.zero_grad()
    losses.append(torch.nn.functional.cross_entropy(model(images), torch.tensor([0, 1, 2])))
    losses[-1].backward()
    optimiser.step()
assert losses[-1] < losses[0] / 2
assert not [name for name in sys.modules if name.split(".")[0] in ("search_core", "orchestrator", "numba")]
print("as the child")
"""
    done = subprocess.run(
        [sys.executable, "-I", "-c", program], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.stdout == "as the child\n", done.stderr


def test_without_normalisation_images_come_normalised(tmp_path: Path) -> None:
    child, images = trained("gaps")
    export_child(child, tmp_path, images, title="gaps", formats=["python"])
    source = (tmp_path / "child.py").read_text(encoding="utf-8")
    assert "mean" not in source.replace("normalised", "")
    assert "float32, normalised as in training to logits (N, 5)" in source


def test_channels_of_its_own_leave_and_few_bits_do_not(tmp_path: Path) -> None:
    size = NetworkSize(NetworkOptions(cells=3, init_channels=4), (3, 8, 8), 5)
    images = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(2))
    narrow = Child(PUBLISHED["SNAS_mild"], size, cell_channels=(2, 6, 4), seed=1)
    (file,) = export_child(narrow, tmp_path / "narrow", images, title="narrow", formats=["python"])
    assert file.difference < 1e-6
    coarse = Child(PUBLISHED["SNAS_mild"], size, bits=(Bits(4, 4),) * 3, seed=1)
    with pytest.raises(ExportError, match="must have full precision, got few bits"):
        export_child(coarse, tmp_path / "coarse", images, title="coarse", formats=["python"])
    assert not (tmp_path / "coarse").exists()


def test_file_that_computes_something_else_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    child, images = trained("gaps")
    real = formats.child_source
    monkeypatch.setattr(formats, "child_source", lambda *given: real(*given).replace("- self.mean", "+ self.mean"))
    with pytest.raises(ExportError, match=r"child\.py must give the child's logits to 1e-05 of the largest, got"):
        export_child(child, tmp_path, images, title="gaps", mean=MEAN, std=STD, formats=["python"])


def test_onnx_without_its_packages_is_refused_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    child, images = trained("gaps")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ExportError, match=r"it needs onnxruntime: pip install 'snas-orchestrator\[onnx\]'"):
        export_child(child, tmp_path / "folder", images, title="gaps")
    assert not (tmp_path / "folder").exists()
