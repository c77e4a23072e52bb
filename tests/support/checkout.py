"""Where the checkout is, whoever asks."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
