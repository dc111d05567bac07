"""timm's and Hugging Face's SwinV2 behind the interface that SimMIM asks of an encoder, with our weights."""

from __future__ import annotations

from timm.models.swin_transformer_v2 import SwinTransformerV2
from torch import Tensor, nn
from transformers import Swinv2Config, Swinv2Model

from swinmim.checkpoint.names import to_huggingface
from swinmim.models.swinv2 import SwinV2


class Contender(nn.Module):
    """What SimMIM reads of an encoder, copied from ours."""

    def __init__(self, ours: SwinV2) -> None:
        super().__init__()
        self.architecture, self.resolution, self.stages = ours.architecture, ours.resolution, ours.stages
        self.in_chans, self.stride, self.num_features = ours.in_chans, ours.stride, ours.num_features

    def take(self, ours: SwinV2) -> None:
        """Our weights, under its names."""
        raise NotImplementedError


class TimmEncoder(Contender):
    def __init__(self, ours: SwinV2) -> None:
        super().__init__(ours)
        a = ours.architecture
        self.model = SwinTransformerV2(
            img_size=ours.resolution,
            patch_size=a.patch_size,
            in_chans=a.in_chans,
            num_classes=0,
            embed_dim=a.embed_dim,
            depths=a.depths,
            num_heads=a.num_heads,
            window_size=tuple(stage.window for stage in ours.stages),
            mlp_ratio=a.mlp_ratio,
            drop_path_rate=0.0,
            pretrained_window_sizes=ours.pretrained_windows,
        )

    def take(self, ours: SwinV2) -> None:
        self.model.load_state_dict(ours.state_dict(), strict=True)

    def embed(self, images_BCHW: Tensor) -> Tensor:
        return self.model.patch_embed(images_BCHW)

    def encode(self, tokens_BHWC: Tensor) -> list[Tensor]:
        return [self.model.layers(tokens_BHWC)]

    def norm(self, tokens_BHWC: Tensor) -> Tensor:
        return self.model.norm(tokens_BHWC)


class HfEncoder(Contender):
    """Square images only: Hugging Face takes the first axis of windows and grids for both."""

    def __init__(self, ours: SwinV2) -> None:
        super().__init__(ours)
        a = ours.architecture
        config = Swinv2Config(
            image_size=ours.resolution[0],
            patch_size=a.patch_size,
            num_channels=a.in_chans,
            embed_dim=a.embed_dim,
            depths=list(a.depths),
            num_heads=list(a.num_heads),
            window_size=ours.stages[0].window[0],
            mlp_ratio=a.mlp_ratio,
            pretrained_window_sizes=[window[0] for window in ours.pretrained_windows],
            drop_path_rate=0.0,
        )
        self.model = Swinv2Model(config, add_pooling_layer=False)

    def take(self, ours: SwinV2) -> None:
        self.model.load_state_dict(to_huggingface(ours.state_dict()), strict=True)

    def embed(self, images_BCHW: Tensor) -> Tensor:
        embeddings = self.model.embeddings
        tokens_BPC, (height, width) = embeddings.patch_embeddings(images_BCHW)
        return embeddings.norm(tokens_BPC).unflatten(1, (height, width))

    def encode(self, tokens_BHWC: Tensor) -> list[Tensor]:
        side = tuple(tokens_BHWC.shape[1:3])
        out_BPC = self.model.encoder(tokens_BHWC.flatten(1, 2), side)[0]
        return [out_BPC.unflatten(1, (side[0] >> (len(self.stages) - 1), -1))]

    def norm(self, tokens_BHWC: Tensor) -> Tensor:
        return self.model.layernorm(tokens_BHWC)
