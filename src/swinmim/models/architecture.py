"""The sizes of the SwinV2 family, as data."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from swinmim.models.errors import ModelError, nearest


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """What fixes the parameters of a SwinV2, apart from its resolution.

    Stage s works with embed_dim * 2^s channels on a grid 2^s times coarser than the patches. Raises ModelError for
    values that cannot be built.
    """

    name: str
    embed_dim: int
    depths: tuple[int, ...]
    """Blocks per stage."""
    head_dim: int = 32
    """Channels per attention head, the same in every stage."""
    patch_size: int = 4
    """Pixels per patch side."""
    mlp_ratio: float = 4.0
    window_ratio: int = 16
    """Image side / window side: 16 makes 192 px -> window 12, the official pre-training pair."""
    extra_norm_every: int = 0
    """A LayerNorm on the main branch after every n-th block of a stage (paper section 3.2, H and G: 6). 0 = none."""
    in_chans: int = 3

    def __post_init__(self) -> None:
        object.__setattr__(self, "depths", tuple(self.depths))
        if not self.depths or min(self.depths) < 1:
            raise ModelError(f"{self.name}: depths needs at least one stage of at least one block; got {self.depths}.")
        for field in ("embed_dim", "head_dim", "patch_size", "window_ratio", "in_chans"):
            if getattr(self, field) < 1:
                raise ModelError(f"{self.name}: {field} is at least 1; got {getattr(self, field)}.")
        if self.extra_norm_every < 0 or self.mlp_ratio <= 0:
            raise ModelError(
                f"{self.name}: extra_norm_every is at least 0 and mlp_ratio above 0; "
                f"got {self.extra_norm_every} and {self.mlp_ratio}."
            )
        if self.embed_dim % self.head_dim:
            near = max(self.head_dim, round(self.embed_dim / self.head_dim) * self.head_dim)
            raise ModelError(
                f"{self.name}: embed_dim must be a multiple of head_dim; got {self.embed_dim} and {self.head_dim}. "
                f"Nearest embed_dim: {near}."
            )

    @property
    def num_stages(self) -> int:
        return len(self.depths)

    @property
    def stage_dims(self) -> tuple[int, ...]:
        """Channels of each stage."""
        return tuple(self.embed_dim << s for s in range(self.num_stages))

    @property
    def num_heads(self) -> tuple[int, ...]:
        """Attention heads of each stage."""
        return tuple(dim // self.head_dim for dim in self.stage_dims)

    @property
    def num_features(self) -> int:
        """Channels of the last stage."""
        return self.stage_dims[-1]

    @property
    def stride(self) -> int:
        """Pixels per token side of the last stage."""
        return self.patch_size << (self.num_stages - 1)

    def has_extra_norm(self, stage: int, block: int) -> bool:
        """Whether a main-branch norm follows this block, both counted from 0.

        The paper does not say from where it counts. Here: inside each stage, so stage 3 only (H: blocks 6, 12, 18;
        G: 6, 12, .. 42). One that would end the last stage is left to the final norm, which stands at that very place.
        """
        ends_the_encoder = stage == self.num_stages - 1 and block == self.depths[stage] - 1
        return self.extra_norm_every > 0 and (block + 1) % self.extra_norm_every == 0 and not ends_the_encoder

    @property
    def extra_norms(self) -> int:
        """How many main-branch norms the encoder has. timm and Hugging Face know none."""
        return sum(self.has_extra_norm(s, b) for s, depth in enumerate(self.depths) for b in range(depth))


# T to L: configs/swinv2 of microsoft/Swin-Transformer. H and G: paper sections 3.6 and 4; their head dim of 32 is not
# printed there. G has 4 blocks in its last stage, which gives the published 3.0 B parameters (2 would give 2.6 B).
ARCHITECTURES: dict[str, Architecture] = {
    a.name: a
    for a in (
        Architecture(name="swinv2_t", embed_dim=96, depths=(2, 2, 6, 2)),
        Architecture(name="swinv2_s", embed_dim=96, depths=(2, 2, 18, 2)),
        Architecture(name="swinv2_b", embed_dim=128, depths=(2, 2, 18, 2)),
        Architecture(name="swinv2_l", embed_dim=192, depths=(2, 2, 18, 2)),
        Architecture(name="swinv2_h", embed_dim=352, depths=(2, 2, 18, 2), extra_norm_every=6),
        Architecture(name="swinv2_g", embed_dim=512, depths=(2, 2, 42, 4), extra_norm_every=6),
        # Small images: 32 px -> grids 8 and 4, window 4.
        Architecture(name="swinv2_demo", embed_dim=64, depths=(2, 4), window_ratio=8),
    )
}


def get_architecture(name: str, **overrides: object) -> Architecture:
    """The architecture of this name, with some fields replaced. Raises ModelError for an unknown name or field."""
    if name not in ARCHITECTURES:
        raise ModelError(f"Unknown model {name!r}.{nearest(name, ARCHITECTURES)} Known: {', '.join(ARCHITECTURES)}.")
    fields = [f.name for f in dataclasses.fields(Architecture) if f.name != "name"]
    for key in overrides:
        if key not in fields:
            raise ModelError(f"Unknown model option {key!r}.{nearest(key, fields)} Known: {', '.join(fields)}.")
    return dataclasses.replace(ARCHITECTURES[name], **overrides)  # type: ignore[arg-type]
