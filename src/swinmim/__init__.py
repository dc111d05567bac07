"""swinmim: pretrain SwinV2 on unlabelled images by masked image modelling, and take it to a task."""

__version__ = "0.1.0"  # before the imports: they record it in manifests

from swinmim.checkpoint.encoder import load_encoder as load_encoder
from swinmim.checkpoint.encoder import save_encoder as save_encoder
from swinmim.models.swinv2 import create_encoder as create_encoder
