"""Two tiers as tests route between them."""

from jobs.models.placement import TierCapacity

A10G = TierCapacity("a10g", 24_000_000_000, gpu_promised=True)
H100 = TierCapacity("h100", 80_000_000_000, gpu_promised=True)
