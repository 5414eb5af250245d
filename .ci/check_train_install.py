"""The installed package trains and serves beside torch, which lies in the folder named."""

import sys
from pathlib import Path

import peel_ext

sys.path.append(sys.argv[1])  # after this environment, whose peel_ext stays the one in use

import torch

from peel_ext import ElasticEmbedding

torch.manual_seed(0)
embedding = ElasticEmbedding(500, 16, num_groups=2)
optimiser = torch.optim.SGD(embedding.parameters(), lr=0.1)
indices = torch.randint(500, (64,))
embedding.set_row_values(torch.rand(2, 500))
losses = []
for _ in range(5):
    optimiser.zero_grad()
    with embedding.budget(6000):
        loss = (embedding(indices, groups=indices % 2) - 1).square().mean()
    loss.backward()
    optimiser.step()
    losses.append(loss.item())
if losses[-1] >= losses[0]:
    sys.exit(f"training under a budget does not help: {losses}")
pee = embedding.generate(1, 6000)
with embedding.budget(6000):
    rows = embedding(torch.arange(500), groups=1).detach().numpy()
if pee.nbytes > 6000 or not (pee.lookup(range(500)) == rows).all():
    sys.exit("the module under a budget and the packed embedding differ")
if not Path(peel_ext.__file__).is_relative_to(sys.prefix):
    sys.exit(f"the package tried is {peel_ext.__file__}, not the one installed here")
print(f"peel_ext {peel_ext.__version__} trains with torch {torch.__version__}")
