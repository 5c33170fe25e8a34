"""Writes `legacy.pth` and `zip.pth`: one small state_dict, in the two formats of `torch.save`.

The values are by formula, so that `test_torch_file.py` can compute them without PyTorch. Run it in an environment of
its own: `pip install torch && python make_torch_files.py`. Made with PyTorch 2.13.0.
"""

import pathlib

import torch

norm = torch.nn.BatchNorm2d(3)
with torch.no_grad():
    norm.weight.copy_(torch.arange(3) / 4 + 1)
    norm.bias.copy_(torch.arange(3) / 8 - 1)
    norm.running_mean.copy_(torch.arange(3) - 0.5)
    norm.running_var.copy_(torch.arange(3) * 2 + 0.25)
    norm.num_batches_tracked.fill_(2**40 + 1)

base = torch.arange(10, dtype=torch.int32) * 3
state = norm.state_dict(prefix="norm.")  # has the `_metadata` that modules add
state["half"] = (torch.arange(8, dtype=torch.float16) / 8).reshape(2, 2, 2)
state["transposed"] = torch.arange(24, dtype=torch.float32).reshape(4, 3, 2).permute(1, 2, 0)
state["strided"] = torch.arange(24, dtype=torch.float64).reshape(4, 6)[1::2, 1::2]
state["front"] = base[:6]
state["back"] = base[4:]
state["expanded"] = torch.full((1, 1), 7, dtype=torch.uint8).expand(2, 3)
state["bool"] = torch.arange(4) % 3 == 0
state["empty"] = torch.zeros(0, 5)
state["parameter"] = torch.nn.Parameter(torch.tensor([[1.5]]))

folder = pathlib.Path(__file__).parent
torch.save(state, folder / "legacy.pth", _use_new_zipfile_serialization=False)
torch.save(state, folder / "zip.pth")
