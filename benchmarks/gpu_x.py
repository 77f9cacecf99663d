import sys
import numpy as np, torch
import gpu
from plait.ops.api import KVConfig
from plait.ops.cuda import open_cuda, work
from plait.ops.cuda.kernels import decode, rows
from plait.ops.cuda import products, executable as ex
from plait.types import SamplingParams
m = gpu.shape_model("llama-3.1-8b")
e = open_cuda("cuda", "bf16").compile(m.program, KVConfig(16, (64 * 1100 // 16 + 400, ), "bf16"))
for part in (*e.model.memory._k, *e.model.memory._v): part.normal_()
P = SamplingParams(temperature=0.6, top_k=0, top_p=1.0, min_p=0.0, seed=7)
print(torch.cuda.get_device_name())
def go(name, points=((1, 128), (16, 128))):
    e.graphs.drop()
    print(name, *[f"{c}x{n}: %.2f/%.2f/%.2f" % gpu.decode_row(e, c, n, 16, P) for c, n in points], flush=True)
T = rows.Tiling
def default(t): products.default_tiling = lambda r, c, d, g: t(r, c, d, g)
std = lambda r, c, d, g: T(32, 128, 2 if d >= 8192 and c < 8192 else 1, 4, 5)
rows.AHEAD_BYTES = 24 << 20; default(std); go("ahead 24M")
rows.AHEAD_BYTES = 8 << 20; go("ahead 8M")
rows.AHEAD_BYTES = 0; go("ahead 0")
decode.TUNE = (128, 2, 4); go("ahead 0, decode 128", ((1, 128), (16, 128), (64, 128), (64, 1024), (16, 2048)))
for s in (128, 64):
    work.SPLITS = s
    go(f"splits {s}", ((64, 1024), (16, 2048), (1, 8192)))
work.SPLITS = 256
default(lambda r, c, d, g: T(32, 128, 2 if c < 8192 else 1, 4, 4)); go("stages 4, split 2")
default(lambda r, c, d, g: T(16, 256, 1, 4, 4)); go("16,256")
default(lambda r, c, d, g: T(64, 128, 1 if c > 8192 else 2, 4, 4)); go("64,128")
default(lambda r, c, d, g: None); go("cuBLAS")
default(std)
import plait.ops.cuda.kernels.runtime as rt
for mod in sys.modules.values():
    if getattr(mod, "__name__", "").startswith("plait.ops.cuda.kernels") and hasattr(mod, "overlap"):
        mod.overlap = lambda device: {"PDL": False, "launch_pdl": False}
go("no overlap")
rows.overlap = rt.overlap
saved = rows.overlap
