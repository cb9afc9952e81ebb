"""Grow a small dense MM1 into a sparse one, on disk, and train it on: it begins where it stood.

The weights are random and small, so that the example runs anywhere in seconds; with a checkpoint,
give its folder: `upcycle_checkpoint("mm1-3b", "mm1-3b-moe", num_experts=64, every=2)`.
"""

import tempfile
from pathlib import Path

import torch
from transformers import logging

from mm1_hf import MM1ForConditionalGeneration, presets
from mm1_hf.conversion import upcycle_checkpoint

torch.manual_seed(0)
logging.disable_progress_bar()

with tempfile.TemporaryDirectory() as name:
    folder = Path(name)
    dense = MM1ForConditionalGeneration(presets.tiny()).eval()
    dense.save_pretrained(folder / "dense")
    print(upcycle_checkpoint(folder / "dense", folder / "sparse", num_experts=8, every=2))
    sparse = MM1ForConditionalGeneration.from_pretrained(folder / "sparse")
print(f"{dense.num_parameters():,} parameters became {sparse.num_parameters():,}")

ids = torch.randint(10, 1000, (4, 64))
with torch.no_grad():
    difference = (sparse(input_ids=ids).logits - dense(input_ids=ids).logits).abs().max()
print(f"logits differ by {difference:.1e} at most")
assert difference < 1e-5

optimizer = torch.optim.AdamW(sparse.parameters(), lr=1e-3)
experts = sparse.model.language_model.layers[1].mlp.experts.down_proj
sparse.train()
for step in range(3):
    outputs = sparse(input_ids=ids, labels=ids)
    outputs.loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    apart = (experts[0] - experts[1]).abs().max()
    print(
        f"step {step}: loss {outputs.loss:.3f}, balance {outputs.aux_loss:.2f}, "
        f"the first two experts differ by {apart:.1e}"
    )
